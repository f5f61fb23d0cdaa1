"""Run length of certainty: tokens in a row that the model was sure of."""

from __future__ import annotations

import math

from lynxstop.core.statistics import Statistics
from lynxstop.signals.base import Plain


class SureRun(Plain):
    """Length of the current run of tokens whose entropy is below a cut.

    Parameters
    ----------
    cut : float
        In nats.
    """

    def __init__(self, cut: float = 0.1) -> None:
        self._cut = cut
        self._run = 0
        self._unknown = True

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token."""
        self._unknown = math.isnan(statistics.entropy)
        self._run = self._run + 1 if statistics.entropy < self._cut else 0

    def value(self) -> float:
        """Return the length; NaN where the entropy is unknown."""
        return math.nan if self._unknown else float(self._run)
