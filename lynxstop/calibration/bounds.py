"""Exact and finite-sample tests of H: risk > alpha, and the upper limits they invert to."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lynxstop.extras import need

Floats = NDArray[np.float64]


def binomial_p(losses: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
    """P(Bin(n, alpha) <= losses), for 0/1 losses: the exact p-value of Learn then Test.

    `losses` and `n` broadcast; n = 0 gives 1. Angelopoulos et al. 2021 (arXiv 2110.01052), section 2.

    Examples
    --------
    >>> round(float(binomial_p(0, 59, alpha=0.05)), 4)
    0.0485
    """
    special = need("scipy.special", "calibrate")
    k, m = np.broadcast_arrays(np.asarray(losses, float), np.asarray(n, float))
    inside = k < m
    tail: Floats = special.betainc(np.where(inside, m - k, 1.0), k + 1.0, 1.0 - alpha)
    return np.where(inside, tail, 1.0)


def hoeffding_bentkus_p(losses: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
    """Hoeffding-Bentkus p-value for the sum of n independent losses in [0, 1].

    min(exp(-n h(min(r, alpha), alpha)), e P(Bin(n, alpha) <= ceil(n r))) with r the mean loss and h the
    binary relative entropy: Bates et al. 2021 (arXiv 2101.02703), section 3.1.3. n = 0 gives 1.
    """
    special = need("scipy.special", "calibrate")
    total, m = np.broadcast_arrays(np.asarray(losses, float), np.asarray(n, float))
    rate = np.minimum(total / np.maximum(m, 1.0), alpha)
    entropy = special.rel_entr(rate, alpha) + special.rel_entr(1.0 - rate, 1.0 - alpha)
    bentkus = np.e * binomial_p(np.ceil(total), m, alpha)
    return np.where(m > 0, np.minimum(1.0, np.minimum(np.exp(-m * entropy), bentkus)), 1.0)


def clopper_pearson_upper(losses: ArrayLike, n: ArrayLike, delta: float) -> Floats:
    """Exact upper confidence limit of a binomial rate at confidence 1 - delta; n = 0 or losses = n give 1.

    Examples
    --------
    >>> round(float(clopper_pearson_upper(0, 300, delta=0.05)), 4)
    0.0099
    """
    special = need("scipy.special", "calibrate")
    k, m = np.broadcast_arrays(np.asarray(losses, float), np.asarray(n, float))
    inside = k < m
    limit: Floats = special.betaincinv(k + 1.0, np.where(inside, m - k, 1.0), 1.0 - delta)
    return np.where(inside, limit, 1.0)


def clopper_pearson_interval(losses: float, n: float) -> tuple[float, float]:
    """Exact two-sided 95% interval of a binomial rate."""
    lower = 1.0 - float(clopper_pearson_upper(n - losses, n, 0.025))
    return lower, float(clopper_pearson_upper(losses, n, 0.025))


def hoeffding_bentkus_upper(losses: float, n: int, delta: float) -> float:
    """Upper confidence limit of the mean loss, from inverting `hoeffding_bentkus_p` by bisection."""
    low, high = losses / max(n, 1), 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if hoeffding_bentkus_p(losses, n, middle) <= delta:
            high = middle
        else:
            low = middle
    return high
