"""Log-probabilities of the tokens since the last cue: the lowest and the mean."""

from __future__ import annotations

import math

from lynxstop.core.statistics import UNKNOWN, Statistics


class SinceCue:
    """Lowest, or mean, log-probability of the tokens generated since the last cue, in nats.

    Parameters
    ----------
    lowest : bool
        The lowest, else the mean.
    """

    def __init__(self, lowest: bool) -> None:
        self._lowest = lowest
        self._total, self._count, self._least, self._last = 0.0, 0, math.nan, math.nan

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token."""
        self._last = statistics.logprob
        if math.isnan(self._last):
            return
        self._total += self._last
        self._count += 1
        if not self._least <= self._last:
            self._least = self._last

    def cue(self, ago: int) -> None:
        """Start again after the cue."""
        last = self._last
        self._total, self._count, self._least = 0.0, 0, math.nan
        if ago:
            self.step(0, UNKNOWN._replace(logprob=last))

    def value(self) -> float:
        """Return the lowest or the mean; NaN directly after a cue."""
        if self._lowest:
            return self._least
        return self._total / self._count if self._count else math.nan
