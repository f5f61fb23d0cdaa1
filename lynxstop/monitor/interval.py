"""Confidence sequence of a mean in [0, 1]: an interval that may be read at any time."""

from __future__ import annotations

import math

_PRIOR = 0.5
_STEPS = 60


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_likelihood(rate: float, total: float, n: int) -> float:
    lost = total * math.log(rate) if total > 0 else 0.0
    if n <= total:
        return lost
    return lost + (n - total) * math.log1p(-rate) if rate < 1.0 else -math.inf


def confidence_sequence(total: float, n: int, level: float = 0.05) -> tuple[float, float]:
    """Bounds that contain the mean loss at all times together, with probability at least 1 - level.

    The set of rates m at which the Beta(1/2, 1/2) mixture of likelihood ratios against m stays below
    1 / level. Under mean m each ratio is a supermartingale for losses in [0, 1], since it is convex in the
    loss (Robbins 1970; Howard et al. 2021, arXiv 1810.08240).

    Parameters
    ----------
    total : float
        Sum of the losses.
    n : int
        Number of losses.
    level : float

    Returns
    -------
    (lower, upper) : tuple of float

    Examples
    --------
    >>> lower, upper = confidence_sequence(5, 500)
    >>> lower < 0.01 < upper < 0.05
    True
    >>> confidence_sequence(0, 0)
    (0.0, 1.0)
    """
    if n == 0:
        return 0.0, 1.0
    mixture = _log_beta(_PRIOR + total, _PRIOR + n - total) - _log_beta(_PRIOR, _PRIOR)
    least = mixture + math.log(level)
    mean = total / n

    def inside(rate: float) -> bool:
        return _log_likelihood(rate, total, n) > least

    def edge(outer: float) -> float:
        inner = mean
        for _ in range(_STEPS):
            middle = (inner + outer) / 2
            if inside(middle):
                inner = middle
            else:
                outer = middle
        return outer

    lower = edge(0.0) if mean > 0 else 0.0
    upper = edge(1.0) if mean < 1 else 1.0
    return lower, upper
