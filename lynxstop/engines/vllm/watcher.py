"""One step of the batch, whichever runner takes it: hidden states, session, forced token."""

from __future__ import annotations

import logging

from torch import Tensor

from lynxstop.engines.vllm.draws import Draws
from lynxstop.engines.vllm.hidden import HiddenStates
from lynxstop.engines.vllm.metrics import Metrics
from lynxstop.engines.vllm.recorder import Recorder
from lynxstop.engines.vllm.seats import Seats, Step

logger = logging.getLogger("vllm.lynxstop")


class Watcher:
    """Watches a running batch.

    Parameters
    ----------
    sessions : Seats
    hidden : HiddenStates
    metrics : Metrics
    recorder : Recorder, optional
        Records cues of requests that ask for it.
    draws : Draws, optional
        Draws the tokens of requests with random numbers of their own.
    """

    def __init__(
        self,
        sessions: Seats,
        hidden: HiddenStates,
        metrics: Metrics,
        recorder: Recorder | None = None,
        draws: Draws | None = None,
    ) -> None:
        self.sessions = sessions
        self.hidden = hidden
        self.metrics = metrics
        self.recorder = recorder
        self.draws = draws

    def look(self, logits: Tensor, step: Step) -> None:
        """Read a step, score, decide, and raise the logits of forced tokens in place."""
        last = self.hidden.take(len(logits))
        sessions = self.sessions

        def features(rows: Tensor | None) -> Tensor:
            return self.hidden.features(last, step.places, rows)

        if lost := sessions.look(step, features, logits):
            self.metrics.count("lost", lost)
        if self.recorder is not None:
            self.recorder.look(sessions, step.slots, step.indices, features, logits)
        if self.draws is not None:
            self.draws.deal(logits, step.slots, step.indices)
        sessions.force(logits)
        self.metrics.stepped = True
