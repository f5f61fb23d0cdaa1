"""Several exits under one dial: confident, or derailed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from lynxstop.rules.base import Point, Rule, Score
from lynxstop.rules.training import Training

_KNOTS = 64


@dataclass(frozen=True)
class Either(Rule):
    """Exit as soon as one of several rules is worth it: one dial, one certificate for the whole policy.

    Every rule's score is mapped to the risk that its own first exits would have taken on the training split,
    were this score the threshold; the best of them counts. At any setting of the dial all rules may thus
    spend the same risk, and a signal that tells little hardly ever exits.

    Parameters
    ----------
    members : tuple of Rule
    scales : tuple of (thresholds, values)
        For each member, points of its increasing map, joined by straight lines.
    """

    name = "either"
    members: tuple[Rule, ...] = ()
    scales: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()

    @property
    def signals(self) -> tuple[str, ...]:
        """Keys of the signals its members read."""
        return tuple(dict.fromkeys(key for member in self.members for key in member.signals))

    @property
    def needs(self) -> frozenset[str]:
        """What its members need."""
        return frozenset[str]().union(*(member.needs for member in self.members))

    def fit(self, training: Training) -> Self:
        """Fit the members, then their common scale."""
        members = tuple(member.fit(training) for member in self.members)
        return replace(self, members=members, scales=tuple(_scale(member, training) for member in members))

    def start(self) -> Score:
        """Begin a request."""
        maps = [(np.array(x), np.array(y)) for x, y in self.scales]
        scores = [member.start() for member in self.members]

        def score(point: Point) -> float:
            best = math.nan
            for own, (x, y) in zip(scores, maps, strict=True):
                value = own(point)
                if not math.isnan(value) and len(x):
                    best = (
                        max(best, float(np.interp(value, x, y)))
                        if best == best
                        else float(np.interp(value, x, y))
                    )
            return best

        return score

    def constants(self) -> dict[str, Any]:
        """Return its constants as plain data."""
        members = [{"name": member.name, "constants": member.constants()} for member in self.members]
        return {"members": members, "scales": self.scales}


@dataclass(frozen=True)
class LynxOrRpdi(Either):
    """The probe's logit, or RPDI."""

    name = "lynx|rpdi"


@dataclass(frozen=True)
class CombinedOrLower(Either):
    """`combined`, or derailed, or redundant, or looping."""

    name = "combined|lower"


def _scale(rule: Rule, training: Training) -> tuple[tuple[float, ...], tuple[float, ...]]:
    scores = training.scores(rule)
    known = np.concatenate([np.zeros(0), *scores])
    known = known[np.isfinite(known)]
    if not len(known):
        return (), ()
    grid = np.unique(np.quantile(known, np.linspace(0.0, 1.0, _KNOTS)))
    risk, exits = training.risks(scores, grid)
    envelope = np.maximum.accumulate(risk[::-1])[::-1]
    # Exits part thresholds of equal risk, so that the map has no flat piece before the last exit.
    return tuple(grid.tolist()), tuple((-(envelope + 1e-3 * exits)).tolist())
