"""EAT: variance of the entropy after a forced end of thinking."""

from __future__ import annotations

import math


class SmoothedVariance:
    """Exponential moving mean and variance of a sequence.

    m <- (1 - a) m + a x, v <- (1 - a) (v + a (x - m_old)^2). EAT (arXiv 2509.26522) stops when the variance
    of the entropy of the token that would follow the end of thinking falls below a limit.

    Parameters
    ----------
    alpha : float
        a; the paper uses 0.1 to 0.2.

    Examples
    --------
    >>> variance = SmoothedVariance(alpha=0.5)
    >>> [variance.add(value) for value in (1.0, 3.0, 3.0)]
    [nan, 1.0, 0.75]
    """

    def __init__(self, alpha: float = 0.2) -> None:
        self._alpha = alpha
        self._mean = self._variance = math.nan

    def add(self, value: float) -> float:
        """Take one value; return the variance, NaN at the first."""
        if math.isnan(self._mean):
            self._mean = value
            return math.nan
        change = value - self._mean
        old = 0.0 if math.isnan(self._variance) else self._variance
        self._variance = (1 - self._alpha) * (old + self._alpha * change * change)
        self._mean += self._alpha * change
        return self._variance
