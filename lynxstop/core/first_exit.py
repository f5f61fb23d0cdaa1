"""First exits of many traces at any threshold: the array form of `lynxstop.core.session`.

A trace exits at its first score above the threshold, so only the scores that exceed all earlier ones matter.
Between two of these records the exit stays the same: what happens to a trace is a step function of the
threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Steps(NamedTuple):
    """All step functions, one row per step: for low <= threshold < high, the trace exits at `event`."""

    trace: NDArray[np.int64]
    event: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]


def exit_steps(owners: NDArray[np.int64], scores: NDArray[np.floating]) -> Steps:
    """Find the steps of every trace, ordered by trace and ascending `low`.

    Parameters
    ----------
    owners : int64, shape (events,)
        Number of the trace of each eligible decision point, ascending.
    scores : shape (events,)
        Compared as float32; NaN never exits.
    """
    known = np.flatnonzero(~np.isnan(scores))
    if not len(known):
        none = np.zeros(0, dtype=np.int64)
        return Steps(none, none, np.zeros(0, np.float32), np.zeros(0, np.float32))
    owners, values = owners[known], scores[known].astype(np.float32) + np.float32(0.0)
    keys = (owners << 32) + _ordered(values)
    best = np.maximum.accumulate(keys)
    event = np.flatnonzero(np.concatenate([[True], keys[1:] > best[:-1]]))
    trace, high = owners[event], values[event]
    low = np.concatenate([[-np.inf], high[:-1]]).astype(np.float32)
    low[np.concatenate([[True], trace[1:] != trace[:-1]])] = -np.inf
    return Steps(trace, known[event], low, high)


def first_exits(found: Steps, traces: int, threshold: float) -> NDArray[np.int64]:
    """Event at which each trace exits, -1 where it never does; shape (traces,)."""
    limit = np.float32(threshold)
    taken = (found.low <= limit) & (limit < found.high)
    events = np.full(traces, -1, np.int64)
    events[found.trace[taken]] = found.event[taken]
    return events


def sums_at(found: Steps, values: Floats, thresholds: NDArray[np.float32]) -> Floats:
    """Sum a value of the exits taken, at each threshold.

    Parameters
    ----------
    values : shape (steps,)
        Of an exit in each step.
    thresholds : float32, ascending

    Returns
    -------
    array of shape (thresholds,)
    """
    size = len(thresholds)
    low, high = np.searchsorted(thresholds, found.low), np.searchsorted(thresholds, found.high)
    change = np.bincount(low, values, size + 1) - np.bincount(high, values, size + 1)
    return np.cumsum(change)[:size]


def _ordered(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    bits = scores.view(np.uint32)
    flip = np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    ordered: NDArray[np.int64] = (bits ^ flip).astype(np.int64)
    return ordered
