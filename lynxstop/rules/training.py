"""The training split as rules learn from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lynxstop.rules.base import Point, Rule

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Training:
    """Decision points of full traces, with what an exit there would have done.

    Parameters
    ----------
    traces : sequence of sequences of Point
    losses : sequence of arrays of float
        Loss of an exit at each point, 0 or 1.
    problems : sequence of str
        Of each trace.
    tokens : sequence of int
        Thinking tokens of each full trace.
    budget : int
        Thinking tokens a request may take.
    """

    traces: Sequence[Sequence[Point]]
    losses: Sequence[Floats]
    problems: Sequence[str]
    tokens: Sequence[int]
    budget: int

    def scores(self, rule: Rule) -> list[Floats]:
        """Let a rule score every trace; NaN where it abstains."""
        return [run(rule, points)[0] for points in self.traces]

    def column(self, of: Callable[[Point], float]) -> Floats:
        """One number of all points, shape (points,)."""
        return np.array([of(point) for points in self.traces for point in points], np.float64)

    @property
    def good(self) -> NDArray[np.bool_]:
        """Whether an exit is without loss, shape (points,)."""
        losses = np.concatenate([np.zeros(0), *self.losses])
        return np.asarray(losses == 0, bool)

    def risks(self, scores: Sequence[Floats], thresholds: Floats) -> tuple[Floats, Floats]:
        """First-exit risk, and share of thinking tokens saved, at each threshold; shapes (thresholds,)."""
        lost, gone = np.zeros(len(thresholds)), np.zeros(len(thresholds))
        traces = zip(scores, self.losses, self.traces, self.tokens, strict=True)
        for own, losses, points, full in traces:
            known = np.where(np.isnan(own), -np.inf, own)
            best = np.maximum.accumulate(known) if len(known) else known
            first = np.searchsorted(best, thresholds, side="right")
            exits = first < len(known)
            places = np.array([point.position for point in points], np.float64)
            gone[exits] += full - places[first[exits]]
            lost[exits] += losses[first[exits]]
        return lost / max(len(scores), 1), gone / max(sum(self.tokens), 1)


def run(rule: Rule, points: Sequence[Point]) -> tuple[Floats, NDArray[np.int64]]:
    """Score the points of one trace in order; also the tokens each cost, shapes (points,)."""
    score = rule.start()
    scores, costs = np.full(len(points), math.nan), np.zeros(len(points), np.int64)
    for place, point in enumerate(points):
        seen = point.fresh()
        scores[place] = score(seen)
        costs[place] = seen.cost
    return scores, costs
