"""EAT: the entropy after a forced end of thinking has settled."""

from __future__ import annotations

from dataclasses import dataclass

from lynxstop.rules.base import Rule, Score
from lynxstop.signals.eat import SmoothedVariance


@dataclass(frozen=True)
class Eat(Rule):
    """Smoothed variance of that entropy is low (2509.26522); one token per look."""

    name = "eat"
    paper = "2509.26522"
    uses = frozenset({"trial"})
    alpha: float = 0.2

    def start(self) -> Score:
        """Begin a request."""
        variance = SmoothedVariance(self.alpha)
        return lambda point: -variance.add(point.first_entropy())


@dataclass(frozen=True)
class AnswerEntropy(Rule):
    """That entropy itself is low: what EAT looks at, without waiting for it to settle."""

    name = "answer-entropy"
    uses = frozenset({"trial"})

    def start(self) -> Score:
        """Begin a request."""
        return lambda point: -point.first_entropy()
