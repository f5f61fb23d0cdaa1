"""One step of the batch, whichever runner takes it: hidden states, session, forced token."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.engines.vllm.hidden import HiddenStates
from lynxstop.engines.vllm.metrics import Metrics
from lynxstop.engines.vllm.recorder import Recorder
from lynxstop.engines.vllm.sessions import Sessions

logger = logging.getLogger("vllm.lynxstop")


class Step(NamedTuple):
    """What the runner feeds in a step.

    Parameters
    ----------
    slots : int64 array of shape (rows,)
        Slot of each row.
    tokens : Tensor, or array on the CPU
        Token fed last in each row, shape (rows,).
    places : Tensor or None
        Index of that token in the forward pass; None when row i is token i.
    read : bool array of shape (rows,) or None
        Rows whose token was generated and is new; None when all are.
    """

    slots: NDArray[np.int64]
    tokens: Any
    places: Tensor | None
    read: NDArray[np.bool_] | None
    indices: Callable[[NDArray[np.int64]], list[int]]
    """Give the indices, among the generated tokens, of the tokens of some rows."""


class Watcher:
    """Watches a running batch.

    Parameters
    ----------
    sessions : Sessions
    hidden : HiddenStates
    metrics : Metrics
    recorder : Recorder, optional
        Records cues of requests that ask for it.
    """

    def __init__(
        self, sessions: Sessions, hidden: HiddenStates, metrics: Metrics, recorder: Recorder | None = None
    ) -> None:
        self.sessions = sessions
        self.hidden = hidden
        self.metrics = metrics
        self.recorder = recorder

    def look(self, logits: Tensor, step: Step) -> None:
        """Read a step, score, decide, and raise the logits of forced tokens in place."""
        import torch

        last = self.hidden.take(len(logits))
        sessions = self.sessions
        sessions.seat(step.slots)
        read = None if step.read is None else torch.from_numpy(step.read).to(logits.device, non_blocking=True)

        def features(rows: Tensor | None) -> Tensor:
            return self.hidden.features(last, step.places, rows)

        sessions.step(step.tokens, features, read)
        if self.recorder is not None:
            self.recorder.look(sessions, step.slots, step.indices, features, logits)
        sessions.force(logits)
        self.metrics.stepped = True
