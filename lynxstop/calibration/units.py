"""The unit of every guarantee is the problem, because its samples are not independent of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import DataError

Samples = Literal["one", "mean"]


@dataclass(frozen=True, eq=False)
class Units:
    """Independent units: their traces, and the share of each trace in its unit, shape (traces,)."""

    table: TraceTable
    weights: NDArray[np.float64]
    count: int


def as_units(table: TraceTable, samples: Samples, seed: int) -> Units:
    """Turn traces into independent units.

    Parameters
    ----------
    table : TraceTable
    samples : {"one", "mean"}
        What several samples of a problem become: one of them drawn by `seed`, or the mean of their losses,
        which is a loss in [0, 1] even when theirs is 0 or 1.
    seed : int
    """
    names, inverse, counts = np.unique(table.problem_ids, return_inverse=True, return_counts=True)
    if samples == "mean":
        return Units(table, 1.0 / counts[inverse], len(names))
    shuffled = np.random.default_rng(seed).permutation(table.traces)
    _, first = np.unique(inverse[shuffled], return_index=True)
    drawn = table if len(names) == table.traces else table.select(np.sort(shuffled[first]))
    return Units(drawn, np.ones(drawn.traces), len(names))


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
