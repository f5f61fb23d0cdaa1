"""Sums of first-exit losses at all thresholds at once: one pass over the steps of the traces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.traces import TraceTable, round_up
from lynxstop.core.first_exit import Floats, Steps, sums_at


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

    def total(values: Floats) -> Floats:
        return sums_at(found, values, thresholds[::-1])[::-1]

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
