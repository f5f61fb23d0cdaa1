"""What a method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.sweep import Curve, breakpoints, sweep
from lynxstop.calibration.units import Units
from lynxstop.core.first_exit import Steps, exit_steps

Floats = NDArray[np.float64]
Promise = Literal["confidence", "expectation", "cue"]


@dataclass(frozen=True, eq=False)
class Case:
    """One calibration problem.

    Parameters
    ----------
    units : Units
        Independent units with their traces.
    losses : shape (events,)
        Known losses of the units' events.
    grid : float32, strictly descending, optional
        Thresholds fixed on the training split; None tests every float32 number.
    start : int, optional
        Index in the grid at which a selective sequence starts.
    importance : shape (traces,), optional
        Covariate-shift weights.
    importance_limit : float, optional
        Largest weight a future request may have; the largest seen by default.
    """

    units: Units
    losses: Floats
    grid: NDArray[np.float32] | None = None
    start: int | None = None
    importance: Floats | None = None
    importance_limit: float | None = None

    @cached_property
    def steps(self) -> Steps:
        """Step functions of the traces."""
        return exit_steps(self.units.table.owners, self.units.table.scores)

    @cached_property
    def fine(self) -> Curve:
        """Sums at every threshold at which something changes."""
        return self.at(breakpoints(self.steps))

    @cached_property
    def curve(self) -> Curve:
        """Sums at the thresholds of the fixed sequence."""
        return self.fine if self.grid is None else self.at(self.grid)

    def at(self, thresholds: NDArray[np.float32], weights: Floats | None = None) -> Curve:
        """Sums at given thresholds, descending; `weights` replace the units' own."""
        own, scale = (self.units.weights, self.units.scale) if weights is None else (weights, 1)
        scaled = own if scale == 1 else np.rint(own * scale)
        curve = sweep(self.units.table, self.steps, self.losses, scaled, self.units.count, thresholds)
        if scale == 1:
            return curve
        # Integers are summed and divided once: thirds that are rounded up one by one exceed their sum.
        shares = {name: getattr(curve, name) / scale for name in ("losses", "envelope", "exits", "saved")}
        return replace(curve, **shares)


@dataclass(frozen=True, eq=False)
class Sequence:
    """What was tested, in order; runs in which losses and n stay the same are cut to their ends.

    `statistic` is what the method compares: a p-value, an upper limit or a corrected risk.
    """

    thresholds: Floats
    losses: Floats
    n: Floats
    statistic: Floats


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a method certifies; a threshold of inf is a refusal: never exit.

    `losses` of `n` are the counts the decision rests on, `bound` is the upper limit of the risk there. `idle`
    says that thresholds were acceptable, but that nothing exceeds them.
    """

    threshold: float
    losses: float
    n: int
    p_value: float | None
    bound: float | None
    sequence: Sequence
    idle: bool = False

    @property
    def refused(self) -> bool:
        """Whether no threshold was acceptable."""
        return bool(np.isposinf(self.threshold))


def refusal(verdict: Verdict) -> Verdict:
    """Turn a verdict whose threshold nothing exceeds into a refusal."""
    n = int(verdict.sequence.n[0])
    return Verdict(float("inf"), 0.0, n, None, None, verdict.sequence, idle=True)


class Certify(Protocol):
    """The function of a method."""

    def __call__(self, case: Case, alpha: float, delta: float) -> Verdict:
        """Certify risk `alpha`, at confidence 1 - `delta` where the promise has one."""


@dataclass(frozen=True)
class Method:
    """A method as data.

    Parameters
    ----------
    name : str
    certify : Certify
    promise : {"confidence", "expectation", "cue"}
        What it promises: a bound with confidence 1 - delta, a bound on average over calibration sets, or a
        bound per cue on average, which says little about a request.
    fractions : bool
        Whether losses between 0 and 1 are valid input.
    selective : bool
        Whether the risk is among the requests that exit.
    needs : {"grid", "train", "weights"}, optional
        What must be given beside the table.
    grows : bool
        Whether the promise stays while problems are added and looked at again.
    """

    name: str
    certify: Certify
    promise: Promise = "confidence"
    fractions: bool = False
    selective: bool = False
    needs: Literal["grid", "train", "weights"] | None = None
    grows: bool = False


Bound = Callable[[float, int], float]


def fixed_sequence(statistic: Floats, limit: float) -> int:
    """Index of the last accepted threshold, -1 when the first one fails.

    Thresholds are accepted in order while the statistic is at most `limit`; the walk ends at the first that
    is not, NaN included, and nothing after it is looked at. For p-values of a sequence that was fixed
    beforehand, the probability of accepting any threshold of too high a risk is at most `limit`.
    """
    failed = ~(statistic <= limit)
    return int(np.argmax(failed)) - 1 if failed.any() else len(statistic) - 1


def conclude(
    thresholds: NDArray[np.float32],
    losses: Floats,
    n: Floats | int,
    statistic: Floats,
    last: int,
    bound: Bound,
    *,
    p_values: bool = True,
) -> Verdict:
    """Write down a walk that accepted up to index `last`."""
    counts = np.broadcast_to(np.asarray(n, dtype=np.float64), losses.shape)
    end = min(last + 2, len(losses))
    changed = (np.diff(losses[:end]) != 0) | (np.diff(counts[:end]) != 0)
    keep = np.concatenate([[True], changed]) | np.concatenate([changed, [True]])
    if last >= 0:
        keep[last] = True
    told = np.flatnonzero(keep)
    sequence = Sequence(thresholds[told].astype(np.float64), losses[told], counts[told], statistic[told])
    if last < 0:
        return Verdict(float("inf"), 0.0, int(counts[0]), None, None, sequence)
    return Verdict(
        threshold=float(thresholds[last]),
        losses=float(losses[last]),
        n=int(counts[last]),
        p_value=float(statistic[last]) if p_values else None,
        bound=bound(float(losses[last]), int(counts[last])),
        sequence=sequence,
    )


def learn_then_test(
    thresholds: NDArray[np.float32],
    losses: Floats,
    n: Floats | int,
    alpha: float,
    delta: float,
    p_value: Callable[[Floats, Floats | int, float], Floats],
    upper: Callable[[float, int, float], Any],
) -> Verdict:
    """Test a fixed sequence of thresholds, each at level `delta`; `upper` inverts the test to a limit."""
    p_values = p_value(losses, n, alpha)
    last = fixed_sequence(p_values, delta)
    return conclude(thresholds, losses, n, p_values, last, lambda k, n: float(upper(k, n, delta)))
