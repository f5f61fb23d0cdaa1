"""Requests, sampling, generations and answers: the data types shared by all engines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.exits import CueEvent, Exit, Mode
from lynxstop.core.points import CUE
from lynxstop.core.statistics import DEFINITIONS
from lynxstop.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of a request; temperature 0 is greedy, top_k 0 and top_p 1 keep everything."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1024
    answer_tokens: int = 64
    """Limit of tokens after the end of thinking."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ConfigError("Sampling needs temperature >= 0, 0 < top_p <= 1 and top_k >= 0.")
        if self.max_tokens < 1 or self.answer_tokens < 1:
            raise ConfigError("max_tokens and answer_tokens are at least 1.")


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its id keys its random numbers, so it must be unique among requests of one seed."""

    id: str
    prompt_ids: tuple[int, ...]
    risk: float | None = None
    mode: Mode = Mode.STOP
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Signals:
    """Statistics of the distribution after a cue, and of the tokens since the last cue, all in nats.

    Those of the distribution are `lynxstop.core.statistics.DEFINITIONS`; all are columns of a recording.
    """

    entropy: float
    top_gap: float
    end_margin: float
    min_logprob: float
    """Lowest log-probability of the tokens since the last cue."""
    mean_logprob: float
    """Mean log-probability of the tokens since the last cue."""

    @classmethod
    def at(
        cls, events: Sequence[CueEvent], number: int, after: Sequence[float], logprobs: Sequence[float]
    ) -> Signals:
        """Return the signals at an event.

        Parameters
        ----------
        events : sequence of CueEvent
            Of the whole trace so far.
        number : int
            Which of them.
        after : sequence of float, shape (NEXT,)
            Statistics of the distribution after its token.
        logprobs : sequence of float
            Of all generated tokens; NaN where unknown, which leaves a token out.
        """
        index = events[number].index
        start = next((event.index + 1 for event in reversed(events[:number]) if event.kind & CUE), 0)
        since = logprobs[start : index + 1] or logprobs[index : index + 1]
        since = [value for value in since if not math.isnan(value)] or [math.nan]
        known = dict(zip(DEFINITIONS, map(float, after), strict=True))
        return cls(**known, min_logprob=min(since), mean_logprob=math.fsum(since) / len(since))


SKIPPED_CUE, SKIPPED_PENDING, SKIPPED_MARK = 1, 2, 4
"""A decision point without a row, at this token: a cue that it completes and confirms, one that the next
token confirms, or another kind of point."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The record of every generated token, from which signals are replayed.

    Parameters
    ----------
    ids : int32, shape (tokens,)
    thinking : bool, shape (tokens,)
        Whether it lies inside a thinking block.
    statistics : float32, shape (tokens, WIDTH)
        In the order of `lynxstop.core.statistics.Statistics`; NaN where unknown.
    skipped : uint8, shape (tokens,), optional
        Decision points that guards left out, bits of `SKIPPED_CUE`, `SKIPPED_PENDING` and `SKIPPED_MARK`;
        None is none.
    """

    ids: NDArray[np.int32]
    thinking: NDArray[np.bool_]
    statistics: NDArray[np.float32]
    skipped: NDArray[np.uint8] | None = None


@dataclass(slots=True)
class Generation:
    """The result of a request.

    `output_ids` holds the generated tokens without the end-of-sequence token, forced tokens included.
    `finish` is "stop" or "length". When recording, `features` has shape (events, width) and `signals` one
    entry per event; else they are None.
    """

    request: Request
    output_ids: list[int]
    thinking_tokens: int
    finish: str
    events: list[CueEvent]
    exit: Exit | None
    features: NDArray[np.float32] | None = None
    signals: list[Signals] | None = None
    logprobs: list[float] = field(default_factory=list)
    """Log-probability of each generated token before temperature; filled when recording."""
    tokens: Tokens | None = None
    """Statistics of all tokens; filled when recording."""
    exit_positions: list[int] | None = None
    """Thinking tokens at an exit forced at each event; None where exits are forced after `seen_at`."""
    prompt_tokens: int | None = None
    """Tokens of the prompt, where `request` does not hold them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer decoded after an exit forced in a recorded trace.

    Parameters
    ----------
    ids : tuple of int
        Answer tokens after the exit tokens, without the end-of-sequence token.
    logprobs : tuple of float
        Log-probability of each of them, in nats, before temperature.
    finish : str
        "stop", or "length" when a limit cut it.
    first_entropy : float
        Entropy of the distribution after the exit tokens, in nats.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    first_entropy: float = math.nan

    @property
    def confidence(self) -> float:
        """Geometric mean of the token probabilities; 0 for an empty answer."""
        return math.exp(sum(self.logprobs) / len(self.logprobs)) if self.logprobs else 0.0

    @property
    def mean_prob(self) -> float:
        """Arithmetic mean of the token probabilities; 0 for an empty answer."""
        return sum(map(math.exp, self.logprobs)) / len(self.logprobs) if self.logprobs else 0.0

    @property
    def min_prob(self) -> float:
        """Smallest token probability; 0 for an empty answer."""
        return math.exp(min(self.logprobs)) if self.logprobs else 0.0
