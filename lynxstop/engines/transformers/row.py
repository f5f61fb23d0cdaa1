"""One request in a batch: its session, its tokens and its recording."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.session import Phase, Session
from lynxstop.core.statistics import LOGPROB, UNKNOWN, Statistics, unknown
from lynxstop.core.types import Generation, Request, Sampling, Signals, Tokens


class Row:
    """A live row.

    Parameters
    ----------
    request : Request
    session : Session
    sampling : Sampling
        Its token limits are used.
    context : float
        Most tokens of the prompt and the output together.

    Attributes
    ----------
    ids, logprobs : list
        Tokens of the output, and their log-probabilities where statistics are taken.
    wanted : bool
        Whether the score at the last token is needed.
    end : float
        Number of tokens at which the output is cut.
    """

    __slots__ = (
        "_answer_tokens", "_features", "_held", "_signals", "_statistics", "_thinking", "end", "ids",
        "logprobs", "request", "session", "wanted",
    )  # fmt: skip

    def __init__(self, request: Request, session: Session, sampling: Sampling, context: float) -> None:
        self.request = request
        self.session = session
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.wanted = False
        self.end = min(sampling.max_tokens, context - len(request.prompt_ids))
        self._answer_tokens: int | None = sampling.answer_tokens
        self._held: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        self._features: list[NDArray[np.float32]] = []
        self._signals: list[Signals] = []
        self._statistics: list[Statistics] = []
        self._thinking: list[bool] = []

    def read(self, token: int) -> None:
        """Read one generated token; `wanted` then says whether its score is needed."""
        self.ids.append(token)
        self.wanted = self.session.read(token)
        self._thinking.append(self.session.was_thinking)
        if self._answer_tokens is not None and self.session.phase is Phase.ANSWERING:
            self.end = min(self.end, len(self.ids) + self._answer_tokens)
            self._answer_tokens = None

    def known(self, after: NDArray[np.float32]) -> Statistics:
        """Statistics of the last token, given those of the distribution after it, shape (NEXT,)."""
        if not self.ids:
            return UNKNOWN
        found = Statistics._make([*after.tolist(), self.logprobs[-1]])
        self._statistics.append(found)
        return found

    def hold(self, features: NDArray[np.float32], statistics: NDArray[np.float32]) -> None:
        """Keep features and statistics of the last token until it is known whether it completes a cue."""
        self._held[len(self.ids) - 1] = (features, statistics)

    def settle(self) -> None:
        """Record the held tokens that became events; drop those that no longer can."""
        if not self._held:
            return
        events = self.session.events
        for number in range(len(self._signals), len(events)):
            features, after = self._held[events[number].index]
            self._features.append(features)
            self._signals.append(Signals.at(events, number, after.tolist(), self.logprobs))
        self._held = {index: held for index, held in self._held.items() if index == len(self.ids) - 1}

    def close(self, finish: str, record: bool, width: int) -> Generation:
        """End the request and return its result."""
        self.session.finish()
        generation = Generation(
            request=self.request,
            output_ids=self.ids,
            thinking_tokens=self.session.thinking_tokens,
            finish=finish,
            events=self.session.events,
            exit=self.session.exit,
        )
        if record:
            generation.logprobs = self.logprobs
            generation.signals = self._signals
            generation.tokens = self._tokens()
            generation.features = (
                np.stack(self._features) if self._features else np.zeros((0, width), np.float32)
            )
        return generation

    def _tokens(self) -> Tokens:
        """All tokens; the last one has no statistics of its next token when a limit cut the output."""
        found = unknown(len(self.ids))
        found[:, LOGPROB] = self.logprobs
        if self._statistics:
            found[: len(self._statistics)] = self._statistics
        return Tokens(np.array(self.ids, np.int32), np.array(self._thinking, bool), found)
