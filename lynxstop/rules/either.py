"""Several exits under one dial: confident, or derailed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from lynxstop.rules.base import Floats, Point, Rule, Score, Training

_KNOTS = 64
_FACTORS = (1e6, 100.0, 10.0, 3.0, 1.0)
_EARNS = 0.01
"""Share of the tokens that a further member must save in training, or it is kept silent."""
_RISK = 0.05
Scale = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Either(Rule):
    """Exit as soon as one of several rules is worth it: one dial, one certificate for the whole policy.

    Every rule's score is mapped to the risk that its own first exits would have taken on the training split,
    were this score the threshold; the best of them counts. What a unit of risk may cost is another matter for
    a signal that saves little: each further member's risk is multiplied by the factor that saves most on the
    training split. A member that does not earn a hundredth of the tokens there is kept silent: every signal
    that may exit spends some of the risk that is certified.

    Parameters
    ----------
    members : tuple of Rule
    scales : tuple of (thresholds, values)
        For each member, points of its increasing map, joined by straight lines.
    """

    name = "either"
    members: tuple[Rule, ...] = ()
    scales: tuple[Scale, ...] = ()

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
        scores = [training.scores(member) for member in members]
        scales = [_scale(own, training) for own in scores]
        for place in range(1, len(scales)):
            tries = [_dearer(scales[place], factor) for factor in _FACTORS]
            worth = [_worth([*scales[:place], one], scores, training) for one in tries]
            best = max(range(len(tries)), key=worth.__getitem__)
            scales[place] = tries[best if worth[best] > worth[0] + _EARNS else 0]
        return replace(self, members=members, scales=tuple(scales))

    def start(self) -> Score:
        """Begin a request."""
        maps = [(np.array(x), np.array(y)) for x, y in self.scales]
        scores = [member.start() for member in self.members]

        def score(point: Point) -> float:
            values = zip([own(point) for own in scores], maps, strict=True)
            known = [float(np.interp(value, x, y)) for value, (x, y) in values if value == value and len(x)]
            return max(known, default=math.nan)

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


def _scale(scores: Sequence[Floats], training: Training) -> Scale:
    known = np.concatenate([np.zeros(0), *scores])
    known = known[np.isfinite(known)]
    if not len(known):
        return (), ()
    grid = np.unique(np.quantile(known, np.linspace(0.0, 1.0, _KNOTS)))
    risk, saved = training.risks(scores, grid)
    envelope = np.maximum.accumulate(risk[::-1])[::-1]
    # One loss more, as for one trace more: a signal that has shown no loss yet is not free of risk.
    envelope = (envelope * len(scores) + 1.0) / (len(scores) + 1.0)
    # What is saved parts thresholds of equal risk, so that the map has hardly a flat piece.
    slope = np.maximum.accumulate(saved[::-1])[::-1]
    return tuple(grid.tolist()), tuple((-(envelope + 1e-3 * slope)).tolist())


def _dearer(scale: Scale, factor: float) -> Scale:
    return scale[0], tuple(factor * value for value in scale[1])


def _worth(scales: Sequence[Scale], scores: Sequence[Sequence[Floats]], training: Training) -> float:
    """Tokens saved on the training split at the most lenient threshold within the usual risk."""
    mapped = [
        [np.interp(own, *scale) if len(scale[0]) else np.full(len(own), -np.inf) for own in of_member]
        for scale, of_member in zip(scales, scores, strict=False)
    ]
    best = [
        np.max([np.where(np.isnan(own), -np.inf, own) for own in of_trace], axis=0)
        for of_trace in zip(*mapped, strict=True)
    ]
    finite = np.concatenate([np.zeros(0), *best])
    finite = finite[np.isfinite(finite)]
    grid = np.unique(np.quantile(finite, np.linspace(0.0, 1.0, _KNOTS))) if len(finite) else np.zeros(1)
    risk, saved = training.risks(best, grid)
    return float(saved[risk <= _RISK].max(initial=0.0))
