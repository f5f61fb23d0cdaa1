"""The window cascade: trial answers only where the probe's logit is not sure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from lynxstop.rules.base import Point, Rule, Score, Training


@dataclass(frozen=True)
class Cascade(Rule):
    """Logits inside a window go on to a trial answer, whose confidence then decides.

    Above the window the score is more than 1 and no trial is needed, below it less than 0 and none is taken;
    inside it is the trial's confidence. `fit` puts the window between the lower quarter of the good points
    and the upper twentieth of the bad ones.
    """

    name = "cascade"
    uses = frozenset({"hidden", "trial"})
    low: float = -1.0
    high: float = 4.0

    def fit(self, training: Training) -> Self:
        """Place the window."""
        logits = training.column(lambda point: point.logit)
        known, good = np.isfinite(logits), training.good
        if not (known & good).any() or not (known & ~good).any():
            return self
        low = float(np.quantile(logits[known & good], 0.25))
        high = float(np.quantile(logits[known & ~good], 0.95))
        return replace(self, low=min(low, high), high=max(low, high))

    def start(self) -> Score:
        """Begin a request."""

        def score(point: Point) -> float:
            squashed = 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, point.logit))))
            if point.logit > self.high:
                return 1.0 + squashed
            return point.trial().confidence if point.logit > self.low else squashed - 1.0

        return score
