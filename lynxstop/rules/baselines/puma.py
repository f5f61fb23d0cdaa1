"""PUMA: redundancy proposes, trial answers confirm."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lynxstop.rules.base import Point, Rule, Score


@dataclass(frozen=True)
class Puma(Rule):
    """A step that repeats earlier ones proposes; two equal confident trial answers confirm (2605.17672).

    The paper compares embeddings (cosine >= 0.35); without an embedder the share of repeated n-grams stands
    in, with the same limit. The score is the lower confidence of the two trials.
    """

    name = "puma"
    paper = "2605.17672"
    uses = frozenset({"trial"})
    redundancy: float = 0.35
    confidence: float = 0.98
    least: int = 10
    key: str = "redundancy"

    @property
    def signals(self) -> tuple[str, ...]:
        """Keys of the signals it reads."""
        return (self.key, "step")

    @property
    def published(self) -> float:
        """Confidence."""
        return self.confidence

    def start(self) -> Score:
        """Begin a request."""
        before, sure = "", 0.0

        def score(point: Point) -> float:
            nonlocal before, sure
            if point.signals["step"] < self.least or not point.signals[self.key] >= self.redundancy:
                return math.nan
            trial = point.trial()
            both = min(sure, trial.confidence) if trial.answer and trial.answer == before else math.nan
            before, sure = trial.answer, trial.confidence
            return both

        return score
