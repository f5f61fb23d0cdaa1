"""The interface of batched sessions, and the description of one decoding step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.core.exits import Reason
from lynxstop.engines.vllm.request_options import RequestOptions
from lynxstop.engines.vllm.text_ends import TextEnds

COUNTERS = (
    "cues", "scored", "not_finite", "exits_score", "exits_budget", "exit_tokens", "refused", "exits_loop",
    "lost", "kernel_failures",
)  # fmt: skip
"""What sessions count; see `lynxstop.engines.vllm.metrics`."""

BOOST = 1e9
"""Added to the logit of a forced token; no model's logits come near it, and a token a grammar forbids
(-inf) stays forbidden."""

REASONS = (None, Reason.SCORE, Reason.BUDGET, Reason.LOOP, Reason.END)
EXIT_KINDS = 8
"""An exit as a number: thinking tokens times this, plus the place of its reason in `REASONS`; 0 is none."""

Features = Callable[[Tensor | slice | None], Tensor]
"""Give the float32 features of rows of the batch (int64 indices, or a slice), or of all rows: shape (rows,
width)."""


class Drafts(NamedTuple):
    """Rows of requests whose next tokens are drafted: a request has one row, and one more per draft.

    The first row of a request reads its last token, the others a draft each; -1 is a place without one.

    Parameters
    ----------
    starts, counts : int64 arrays of shape (requests,)
        First row of each request, and how many follow one another.
    positions : Tensor
        Place of each row's token in the sequence of its request, shape (rows,).
    partial : bool array of shape (requests,)
        Requests whose prompt, or history after a preemption, is not complete yet: nothing is read.
    """

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    positions: Tensor
    partial: NDArray[np.bool_]


class BatchStep(NamedTuple):
    """What the runner feeds in a step: one row per request, unless there are drafts.

    Parameters
    ----------
    slots : int64 array of shape (requests,)
        Slot of each request.
    tokens : Tensor
        Token fed last in each row, shape (rows,).
    places : Tensor or None
        Index of that token in the forward pass; None when row i is token i.
    read : bool array of shape (requests,) or None
        Requests whose (first) token was generated and is new; None when all are.
    ends : TextEnds, optional
        Where the texts of the requests end: nothing is read from there on.
    """

    slots: NDArray[np.int64]
    tokens: Tensor
    places: Tensor | None
    read: NDArray[np.bool_] | None
    indices: Callable[[NDArray[np.int64]], list[int]]
    """Give the indices, among the generated tokens, of the tokens of some rows."""
    drafts: Drafts | None = None
    ends: TextEnds | None = None


class SessionBatch(Protocol):
    """The sessions of a running batch.

    On its device: `lynxstop.engines.vllm.device_sessions`; one by one on the host:
    `lynxstop.engines.vllm.host_sessions`, and with a rule `lynxstop.engines.vllm.per_request`.

    Attributes
    ----------
    counters : Tensor
        int64, one number per name in `COUNTERS`.
    """

    counters: Tensor

    def admit(self, slot: int, prompt_ids: list[int], options: RequestOptions) -> None:
        """Give a slot to a new request."""

    def park(self, slot: int) -> Any:
        """Return a request's state, to `resume` it later."""

    def resume(self, slot: int, state: Any) -> None:
        """Give a slot to a request that was parked."""

    def drop(self) -> None:
        """Leave every request of the batch alone from now on."""

    def settle(self, slots: list[int], lengths: Tensor) -> Tensor | None:
        """Count what requests that are finished did in their last step; int lengths of their sequences.

        Return their exits, as `exits` does; None where every step counts and tells all that it did.
        """

    def observe(self, step: BatchStep, features: Features, logits: Tensor) -> int:
        """Read a step, score and decide; return how many requests lost their state in it.

        Parameters
        ----------
        step : BatchStep
        features : callable
            Gives the features taken at its tokens.
        logits : Tensor, shape (rows, vocabulary)
            The distributions after its tokens; not changed.
        """

    def force(self, logits: Tensor) -> None:
        """Raise the logit of the wanted token in rows that are being forced; `logits` is (rows,
        vocabulary)."""

    def exits(self) -> Tensor:
        """Exits decided so far in the requests of the last step: int32 of shape (2, requests).

        The first row tells them as `EXIT_KINDS` does, the second the bits of their float32 scores.
        """

    def inside(self) -> Tensor:
        """Rows of the last step in which a thinking block is open that may still be stopped: bool."""

    def candidates(self) -> NDArray[np.int64]:
        """Rows of the last step whose score was wanted; may wait for the device."""

    def shown(self) -> tuple[Tensor, Tensor]:
        """Logits, meaningful at candidates, and thinking tokens of all rows: float32 and int32."""
