"""First-exit losses at all thresholds at once.

A trace exits at its first score above the threshold, so only the scores that exceed all earlier ones matter.
Between two of these records the exit stays the same: the loss of a trace is a step function of the threshold,
and the sum over traces is one pass over the sorted steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.traces import TraceTable, round_up

Floats = NDArray[np.float64]


class Steps(NamedTuple):
    """All step functions, one row per step: for low <= threshold < high, the trace exits at `event`."""

    trace: NDArray[np.int64]
    event: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Curve:
    """Sums over units at each threshold, from the strictest to the most lenient; all of shape (thresholds,).

    Attributes
    ----------
    thresholds : array of float32
    losses : array
        First-exit losses.
    envelope : array
        Worst loss of each trace over this and all stricter thresholds: the monotone envelope.
    exits : array
    saved : array
        Thinking tokens saved; zeros when the table has no token columns.
    units : int
    """

    thresholds: NDArray[np.float32]
    losses: Floats
    envelope: Floats
    exits: Floats
    saved: Floats
    units: int


def steps(table: TraceTable) -> Steps:
    """Find the steps of every trace, ordered by trace and ascending `low`."""
    owners = table.owners
    if not len(owners):
        none = np.zeros(0, dtype=np.int64)
        return Steps(none, none, np.zeros(0, np.float32), np.zeros(0, np.float32))
    keys = (owners << 32) + _ordered(table.scores)
    best = np.maximum.accumulate(keys)
    event = np.flatnonzero(np.concatenate([[True], keys[1:] > best[:-1]]))
    trace, high = owners[event], table.scores[event]
    low = np.concatenate([[-np.inf], high[:-1]]).astype(np.float32)
    low[np.concatenate([[True], trace[1:] != trace[:-1]])] = -np.inf
    return Steps(trace, event, low, high)


def breakpoints(found: Steps) -> NDArray[np.float32]:
    """Return one threshold per constant piece of the summed step function, in descending order.

    Every other float32 threshold acts as one of these: walking them is walking all of float32.
    """
    if not len(found.high):
        return np.zeros(1, dtype=np.float32)
    highs = np.unique(found.high)[::-1]
    return np.append(highs, np.nextafter(highs[-1], np.float32(-np.inf), dtype=np.float32))


def sweep(
    table: TraceTable,
    found: Steps,
    losses: Floats,
    weights: Floats,
    units: int,
    thresholds: NDArray[np.float32],
) -> Curve:
    """Sum losses, exits and saved tokens at each threshold.

    Parameters
    ----------
    table, found
        The traces and their steps.
    losses : shape (events,)
        Known losses, see `TraceTable.charged`.
    weights : shape (traces,)
        Share of each trace in its unit.
    units : int
        Number of units, traces without cues included.
    thresholds : float32, strictly descending
    """
    size = len(thresholds)
    ascending = thresholds[::-1]
    low = np.searchsorted(ascending, found.low)
    high = np.searchsorted(ascending, found.high)

    def total(values: Floats) -> Floats:
        change = np.bincount(low, values, size + 1) - np.bincount(high, values, size + 1)
        sums: Floats = np.cumsum(change)[:size][::-1]
        return sums

    weight, loss = weights[found.trace], losses[found.event]
    saved = np.zeros(len(found.event))
    if table.tokens is not None and table.full_tokens is not None:
        saved = (table.full_tokens[found.trace] - table.tokens[found.event]).astype(np.float64)
    return Curve(
        thresholds=thresholds,
        losses=total(round_up(weight * loss)),
        envelope=total(round_up(weight * worst(found, loss))),
        exits=total(round_up(weight)),
        saved=total(round_up(weight * saved)),
        units=units,
    )


def worst(found: Steps, loss: Floats) -> Floats:
    """Return the worst loss over this and all stricter thresholds, per step; shape (steps,)."""
    base = 2.0 * (found.trace.max(initial=0) - found.trace)
    highest: Floats = np.maximum.accumulate((base + loss)[::-1])[::-1] - base
    return highest


def _ordered(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    bits = scores.view(np.uint32)
    flip = np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    ordered: NDArray[np.int64] = (bits ^ flip).astype(np.int64)
    return ordered
