"""Paired bootstrap intervals: problems are resampled, the same resamples for everything compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate and its 95% interval."""

    value: float
    low: float
    high: float


def draws(problems: Sequence[str], seed: int = 0) -> Floats:
    """How often each trace is drawn when problems are resampled, shape (RESAMPLES, traces)."""
    names, owner = np.unique(np.array(problems), return_inverse=True)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return counts[:, owner].astype(np.float64)


def ratio(above: Floats, below: Floats, weights: Floats) -> Interval:
    """Sum of one column over that of another, with a percentile interval over resampled problems."""
    total = float(below.sum())
    value = float(above.sum()) / total if total else 0.0
    sums = weights @ below
    sampled = np.divide(weights @ above, sums, out=np.zeros(len(sums)), where=sums != 0)
    low, high = np.quantile(sampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))
