"""A test that stays valid while problems are added and looked at: a mixture of bets against H: risk > alpha.

For losses L in [0, 1] of independent problems and a stake s in (0, 1], the product of 1 + s (alpha - L) /
(1 - alpha) is a nonnegative supermartingale when the mean loss is at least alpha; so is its mean over fixed
stakes, and by Ville's inequality it ever reaches 1 / delta with probability at most delta (Waudby-Smith and
Ramdas 2023, arXiv 2010.09686). Of all thresholds in the fixed sequence, the first whose risk is too high has
to be accepted before any other that is, at whichever look: the whole walk is valid at all looks together.
The product does not depend on the order of the problems.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.case import Case, Floats, Verdict, conclude, fixed_sequence

STAKES = (np.arange(48) + 0.5) / 48
"""A stake is best where the risk is alpha (1 - stake)."""


def certify(case: Case, alpha: float, delta: float) -> Verdict:
    """P(risk of any threshold ever returned <= alpha) >= 1 - delta, for losses in [0, 1]."""
    curve = case.curve
    p_values = _walk(case, curve.thresholds, alpha, delta)
    last = fixed_sequence(p_values, delta)
    lost = _losses_at(case, curve.thresholds[last]) if last >= 0 else np.zeros(0)
    return conclude(
        curve.thresholds,
        curve.losses,
        curve.units,
        p_values,
        last,
        lambda losses, n: upper_limit(lost, delta),
    )


def betting_p(losses: Floats, alpha: float) -> float:
    """Anytime-valid p-value of H: the mean loss exceeds `alpha`, from independent losses in [0, 1].

    Examples
    --------
    >>> [betting_p(np.repeat([1.0, 0.0], [lost, 1000 - lost]), 0.05) <= 0.05 for lost in (31, 32)]
    [True, False]
    """
    values, counts = np.unique(losses, return_counts=True)
    return _p_value(counts @ _wealth(values, alpha))


def upper_limit(losses: Floats, delta: float) -> float:
    """Upper confidence limit of the mean loss, from inverting `betting_p` by bisection."""
    low, high = float(losses.mean()), 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if middle < 1.0 and betting_p(losses, middle) <= delta:
            high = middle
        else:
            low = middle
    return high


def _wealth(losses: Floats, alpha: float) -> Floats:
    """Logarithms of one problem's factor, shape (losses, stakes)."""
    gains: Floats = np.log1p(STAKES * ((alpha - losses) / (1.0 - alpha))[:, None])
    return gains


def _p_value(log_wealth: Floats) -> float:
    highest = float(log_wealth.max())
    return float(min(1.0, np.exp(-highest) / np.exp(log_wealth - highest).mean()))


def _walk(case: Case, thresholds: NDArray[np.float32], alpha: float, delta: float) -> Floats:
    """P-values in order, up to the first that fails; 1 after it."""
    place, unit, change = _changes(case, thresholds)
    losses = np.zeros(case.units.count)
    log_wealth = case.units.count * _wealth(np.zeros(1), alpha)[0]
    p_values, now = np.ones(len(thresholds)), _p_value(log_wealth)
    starts = np.append(np.searchsorted(place, np.arange(len(thresholds))), len(place))
    for i in range(len(thresholds)):
        rows = slice(starts[i], starts[i + 1])
        if rows.stop > rows.start:
            units = np.unique(unit[rows])
            before = _wealth(losses[units], alpha)
            np.add.at(losses, unit[rows], change[rows])
            losses[units] = np.clip(losses[units], 0.0, 1.0)
            log_wealth = log_wealth + (_wealth(losses[units], alpha) - before).sum(axis=0)
            now = _p_value(log_wealth)
        p_values[i] = now
        if now > delta:
            break
    return p_values


def _changes(
    case: Case, thresholds: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Where in the sequence which unit's loss changes by how much, ordered by place."""
    found, size = case.steps, len(thresholds)
    ascending = thresholds[::-1]
    loss = case.units.weights[found.trace] * case.losses[found.event]
    _, problem = np.unique(case.units.table.problem_ids, return_inverse=True)
    begins = size - np.searchsorted(ascending, found.high)
    ends = size - np.searchsorted(ascending, found.low)
    place = np.concatenate([begins, ends])
    unit = np.tile(problem[found.trace], 2)
    change = np.concatenate([loss, -loss])
    order = np.argsort(place, kind="stable")
    kept = order[(change[order] != 0) & (place[order] < size)]
    return place[kept], unit[kept], change[kept]


def _losses_at(case: Case, threshold: np.float32) -> Floats:
    _, unit, change = _changes(case, np.array([threshold], dtype=np.float32))
    return np.clip(np.bincount(unit, change, case.units.count), 0.0, 1.0)
