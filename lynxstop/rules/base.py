"""What a rule is: one float per decision point, higher means exit; and what it learns from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.first_exit import exit_steps, sums_at
from lynxstop.errors import StepError

Floats = NDArray[np.float64]

Use = Literal["hidden", "statistics", "trial"]
"""What a rule needs beside the tokens: a probe's logit, `Statistics`, answers forced for trial."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An answer forced at a decision point.

    Parameters
    ----------
    answer : str
        Extracted and normalised; empty when there is none.
    text : str
        All of it.
    tokens : int
        Tokens it took.
    confidence, mean_prob, min_prob : float
        Geometric mean, mean and minimum of the token probabilities.
    first_entropy : float
        Entropy of its first token, in nats.
    """

    answer: str
    text: str
    tokens: int
    confidence: float
    mean_prob: float
    min_prob: float
    first_entropy: float


class Point:
    """A decision point as a rule sees it.

    Parameters
    ----------
    signals : mapping of str to float
        The signals the rule asked for; NaN where undefined.
    logit : float
        Of the probe; NaN without one.
    position : int
        Thinking tokens up to here.
    trial : Trial, optional
        The answer forced here, if one can be had.

    Attributes
    ----------
    cost : int
        Tokens that were spent on trial answers here.
    """

    __slots__ = ("_trial", "cost", "logit", "position", "signals")

    def __init__(
        self, signals: Mapping[str, float], logit: float, position: int, trial: Trial | None = None
    ) -> None:
        self.signals, self.logit, self.position = signals, logit, position
        self._trial = trial
        self.cost = 0

    def fresh(self) -> Point:
        """Return the same point with nothing spent."""
        return Point(self.signals, self.logit, self.position, self._trial)

    def trial(self) -> Trial:
        """Force a trial answer, and pay for it."""
        self.cost = self._known.tokens
        return self._known

    def first_entropy(self) -> float:
        """Entropy after a forced end of thinking; costs one token."""
        self.cost = max(self.cost, 1)
        return self._known.first_entropy

    @property
    def _known(self) -> Trial:
        if self._trial is None:
            raise StepError("This rule needs trial answers, and none were recorded.")
        return self._trial


Score = Callable[[Point], float]
"""Scores the decision points of one request, in order; NaN abstains."""


@dataclass(frozen=True)
class Rule:
    """Base of all rules: a frozen dataclass whose fields are its constants.

    Class attributes
    ----------------
    name : str
    paper : str
        Where it was published; empty for lynxstop's own.
    uses : frozenset of Use
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    uses: ClassVar[frozenset[Use]] = frozenset()

    @property
    def signals(self) -> tuple[str, ...]:
        """Keys of the signals it reads, see `lynxstop.signals.table.signal`."""
        return ()

    @property
    def published(self) -> float | None:
        """The threshold its authors use, on the scale of its score; None when they name none."""
        return None

    def fit(self, training: Training) -> Self:
        """Fix constants on the training split; most rules have nothing to learn."""
        return self

    def start(self) -> Score:
        """Begin a request; a rule that says nothing else takes its one signal as the score."""
        (key,) = self.signals
        return lambda point: point.signals[key]

    @property
    def needs(self) -> frozenset[str]:
        """What it needs; a rule made of others needs what they do."""
        return self.uses

    def constants(self) -> dict[str, Any]:
        """Return its constants as plain data."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


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
        return np.asarray(np.concatenate([np.zeros(0), *self.losses]) == 0, bool)

    def risks(self, scores: Sequence[Floats], thresholds: Floats) -> tuple[Floats, Floats]:
        """First-exit risk, and share of thinking tokens saved, at each threshold.

        Parameters
        ----------
        scores : sequence of arrays
            Per trace, one score per point; NaN never exits.
        thresholds : ascending, shape (thresholds,)
        """
        owners = np.repeat(np.arange(len(scores)), [len(own) for own in scores])
        found = exit_steps(owners, np.concatenate([np.zeros(0), *scores]))
        losses = np.concatenate([np.zeros(0), *self.losses])[found.event]
        saved = np.array(self.tokens)[found.trace] - self.column(lambda point: point.position)[found.event]
        limits = thresholds.astype(np.float32)
        lost, gone = sums_at(found, losses, limits), sums_at(found, saved, limits)
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
