"""What a rule at one threshold did to a set of traces, with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lynxstop.replay.points import Replay, Trace

Floats = NDArray[np.float64]
RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Effect:
    """Per trace, shape (traces,): what happened."""

    exits: NDArray[np.bool_]
    full: Floats
    gross: Floats
    net: Floats
    oracle: Floats
    disagree: Floats
    right_full: Floats
    right_early: Floats
    """NaN without a verdict."""
    trials: Floats

    @property
    def graded(self) -> NDArray[np.bool_]:
        """Traces with a verdict on both answers."""
        graded: NDArray[np.bool_] = np.isfinite(self.right_full) & np.isfinite(self.right_early)
        return graded


def effect(traces: Sequence[Trace], replayed: Replay, threshold: float) -> Effect:
    """Exit every trace at its first point whose score exceeds the threshold; at inf nobody even looks."""
    rows = []
    for trace, scores, costs in zip(traces, replayed.scores, replayed.costs, strict=True):
        hits = np.flatnonzero(scores > np.float32(threshold))
        place = int(hits[0]) if len(hits) else -1
        spent = costs if place < 0 else costs[: place + 1]
        if np.isposinf(threshold):
            spent = costs[:0]
        gross = trace.tokens if place < 0 else int(trace.at_exit[place])
        good = np.flatnonzero(trace.is_cue & trace.agrees)
        rows.append(
            (
                place >= 0,
                trace.tokens,
                gross,
                gross + int(spent.sum()),
                int(trace.at_exit[good[0]]) if len(good) else trace.tokens,
                place >= 0 and not trace.agrees[place],
                _number(trace.right),
                _number(trace.right if place < 0 else trace.exit_right[place]),
                int((spent > 0).sum()),
            )
        )
    columns = np.array(rows, np.float64).T
    return Effect(columns[0].astype(bool), *columns[1:])


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


def _number(verdict: bool | None) -> float:
    return np.nan if verdict is None else float(verdict)
