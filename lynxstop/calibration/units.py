"""The independent units of a calibration: one per problem, whose samples depend on each other.

A promise about *requests* counts a problem as often as it is asked; a promise about *problems* counts each
once. Where all problems have the same number of samples the two are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import DataError

Samples = Literal["one", "mean"]
Unit = Literal["request", "problem"]

_EXACT = 1 << 22
"""Scaled weights below this sum, times losses in steps of 2**-30, are exact in doubles."""


@dataclass(frozen=True, eq=False)
class Units:
    """Independent units.

    Parameters
    ----------
    table : TraceTable
        Their traces.
    weights : shape (traces,)
        Share of each trace in its unit.
    count : int
        Number of units.
    problems : int
        Problems that they were drawn from.
    """

    table: TraceTable
    weights: NDArray[np.float64]
    count: int
    problems: int

    @cached_property
    def scale(self) -> int:
        """Smallest number that makes every weight an integer, as far as sums stay exact; else 1."""
        parts = np.unique(np.rint(1.0 / self.weights).astype(np.int64)).tolist()
        scale = math.lcm(*parts)
        return scale if scale * self.table.traces <= _EXACT else 1


def as_units(table: TraceTable, samples: Samples, seed: int, unit: Unit = "request") -> Units:
    """Turn traces into independent units, one per problem.

    For a promise about requests, a problem stays with a probability proportional to its number of samples,
    the largest for certain: whatever is left was drawn as a request draws its problem, so that the units are
    independent and their risk is that of requests. All stay where the numbers are equal. The promise then
    covers problems that are asked at most as often as the one asked most often here.

    Parameters
    ----------
    table : TraceTable
    samples : {"one", "mean"}
        What several samples of a problem become: one of them drawn by `seed`, or the mean of their losses,
        which is a loss in [0, 1] even when theirs is 0 or 1.
    seed : int
    unit : {"request", "problem"}
        What the promise is about.
    """
    names, inverse, counts = np.unique(table.problem_ids, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(table.traces)
    stays = np.ones(len(names), dtype=bool)
    if unit == "request" and len(names) and counts.min() < counts.max():
        stays = rng.random(len(names)) < counts / counts.max()
    if samples == "mean":
        kept = stays[inverse]
        weights = 1.0 / counts[inverse]
        return Units(_rows(table, np.flatnonzero(kept)), weights[kept], int(stays.sum()), len(names))
    _, first = np.unique(inverse[shuffled], return_index=True)
    drawn = _rows(table, np.sort(shuffled[first][stays]))
    return Units(drawn, np.ones(drawn.traces), drawn.traces, len(names))


def _rows(table: TraceTable, rows: NDArray[np.int64]) -> TraceTable:
    return table if len(rows) == table.traces else table.select(rows)


def check_disjoint(training: NDArray[np.str_], calibration: NDArray[np.str_]) -> None:
    """Refuse a calibration problem that the probe or the thresholds have seen.

    Raises
    ------
    DataError
        When the problem ids of the two splits overlap.
    """
    shared = np.intersect1d(training, calibration)
    if len(shared):
        raise DataError(
            f"{len(shared)} problems are in training and in calibration, for instance {str(shared[0])!r}.",
            hint="Split by problem: no sample of a training problem may be calibrated on.",
        )
