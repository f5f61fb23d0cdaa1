"""What a session tells: its decision points, and why, where and in which mode it stopped."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from lynxstop.core.points import CUE


class Mode(enum.StrEnum):
    """`stop` forces exits; `shadow` decides and records them, but never forces."""

    STOP = "stop"
    SHADOW = "shadow"


class Reason(enum.StrEnum):
    """Why a request was stopped."""

    SCORE = "score"
    BUDGET = "budget"
    LOOP = "loop"
    """The thinking repeated itself; see `lynxstop.core.loops`."""
    END = "end_of_text"
    """The model ended its text while it was still thinking; see `Session.close_thinking`."""
    ASKED = "answer_now"
    """A person or an agent ended the thinking of the running request."""


@dataclass(frozen=True, slots=True)
class CueEvent:
    """A decision point, such as a cue that was confirmed as a whole word.

    Parameters
    ----------
    index : int
        Index, in the generated tokens, of the token that completes the cue: features are taken there.
    seen_at : int
        Index of the token that proved the right word boundary; an exit is forced after it.
    position : int
        Thinking tokens up to and including `index`.
    score : float
        Logit of the probe, or the score of the policy's rule, lowered by the policy's tilt where the point is
        eligible; NaN where it was not scored.
    eligible : bool
        False when a guard of the policy excludes it: no exit is decided there; see
        `lynxstop.core.rule.Eligibility`.
    kind : int
        What it is, bits of `lynxstop.core.points`.
    """

    index: int
    seen_at: int
    position: int
    score: float
    eligible: bool
    kind: int = CUE


@dataclass(frozen=True, slots=True)
class Exit:
    """A decided stop: the reason, the cue's ordinal among the events (-1: no cue), and the comparison."""

    reason: Reason
    cue: int
    seen_at: int
    thinking_tokens: int
    score: float
    threshold: float

    @property
    def certified(self) -> bool:
        """Whether the certificates of a bundle cover exits of this reason."""
        return self.reason in (Reason.SCORE, Reason.BUDGET)
