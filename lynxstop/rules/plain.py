"""Rules that take one signal as it is: ThinkBrake, Prophet, SchED, redundancy, loops, a fixed budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from lynxstop.rules.base import Point, Rule, Score, Training


@dataclass(frozen=True)
class ThinkBrake(Rule):
    """The end of thinking is nearly the likeliest token (2510.00546); tau is 0.1 to 2.5 there."""

    name = "thinkbrake"
    paper = "2510.00546"
    uses = frozenset({"statistics"})
    signals = ("end_margin",)
    tau: float = 0.25

    @property
    def published(self) -> float:
        """Minus tau: a higher score exits."""
        return -self.tau

    def start(self) -> Score:
        """Begin a request."""
        return lambda point: -point.signals["end_margin"]


@dataclass(frozen=True)
class Sched(Rule):
    """Gap of the top two tokens against a limit that falls with progress (Prophet, SchED).

    limit = high + (low - high) * thinking tokens / budget, in nats; the score is the gap minus the limit.
    """

    name = "sched"
    paper = "Prophet, SchED"
    uses = frozenset({"statistics"})
    signals = ("top_gap",)
    published = 0.0
    high: float = 7.5
    low: float = 2.5
    budget: int = 32768

    def fit(self, training: Training) -> Self:
        """Take the budget of the recording."""
        return replace(self, budget=training.budget)

    def start(self) -> Score:
        """Begin a request."""

        def score(point: Point) -> float:
            progress = min(point.position / self.budget, 1.0)
            return point.signals["top_gap"] - (self.high + (self.low - self.high) * progress)

        return score


@dataclass(frozen=True)
class Redundant(Rule):
    """Share of the step's n-grams that were written before: a lower exit."""

    name = "redundancy"
    signals = ("redundancy",)


@dataclass(frozen=True)
class Looping(Rule):
    """Repetitions of what the stream ends on: a lower exit."""

    name = "loop"
    signals = ("loop",)


@dataclass(frozen=True)
class Budget(Rule):
    """A fixed number of thinking tokens (s1, engines' own budgets); the cut waits for a decision point."""

    name = "budget"
    paper = "s1"

    def start(self) -> Score:
        """Begin a request."""
        return lambda point: float(point.position)
