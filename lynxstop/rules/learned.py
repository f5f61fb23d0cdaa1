"""Probes on the features that the other signals give, alone or together with the hidden states' logit."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lynxstop.errors import StepError
from lynxstop.extras import need
from lynxstop.rules.base import Point, Rule, Score, Training, Use

_LOGPROBS = ("entropy", "top_gap", "end_margin", "min_logprob", "mean_logprob", "rpdi:32")
_TOGETHER = (3e-3,)
"""Of all features together: a strong penalty spreads the weight, and strict thresholds need that."""
_STEPS = 10
"""Points whose logits are averaged, as Thought Calibration (2505.18404) does."""
_RUNS = ("tokens", "cues", "step", "sure_run", "redundancy", "loop")


@dataclass(frozen=True)
class Learned(Rule):
    """A logistic regression on features of the decision point; its score is the logit.

    Features that are undefined count as average, but it abstains where the logit it was promised is not a
    number. Standardisation and weights are constants, in the order of the features: the signals, then the
    logit of the hidden states and its mean over the last ten points, then what the trial answer says.
    """

    keys: ClassVar[tuple[str, ...]]
    penalties: ClassVar[tuple[float, ...]] = (1e-1, 1e-3, 10.0)
    """Inverse strengths that are tried; the first when there is too little to choose by."""
    means: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    bias: float = 0.0

    @property
    def signals(self) -> tuple[str, ...]:
        """Keys of the signals it reads."""
        return self.keys

    def fit(self, training: Training) -> Self:
        """Fit on the training split; the penalty is chosen by cross-validation over whole problems."""
        rows = [row for points in training.traces for row in map(self._features(), points)]
        features = np.array(rows, np.float64).reshape(len(rows), -1)
        known = np.isfinite(features)
        count = np.maximum(known.sum(axis=0), 1)
        means = np.where(known, features, 0.0).sum(axis=0) / count
        centred = np.where(known, features - means, 0.0)
        scales = np.sqrt((centred**2).sum(axis=0) / count)
        scales[scales == 0] = 1.0
        groups = np.repeat(training.problems, [len(points) for points in training.traces])
        weights, bias = _logistic(centred / scales, training.good, groups, self.penalties)
        return replace(
            self,
            means=tuple(means.tolist()),
            scales=tuple(scales.tolist()),
            weights=tuple(weights.tolist()),
            bias=bias,
        )

    def start(self) -> Score:
        """Begin a request.

        Raises
        ------
        StepError
            Before it was fitted.
        """
        if not self.weights:
            raise StepError(f"The rule {self.name!r} has not been fitted.", hint="Fit it on training traces.")
        features, hidden = self._features(), "hidden" in self.uses
        table = tuple(zip(self.means, self.scales, self.weights, strict=True))

        def score(point: Point) -> float:
            total = self.bias
            for value, (mean, scale, weight) in zip(features(point), table, strict=True):
                if math.isfinite(value):
                    total += weight * ((value - mean) / scale)
            return math.nan if hidden and math.isnan(point.logit) else total

        return score

    def _features(self) -> _Features:
        return _Features(self.keys, "hidden" in self.uses, "trial" in self.uses)


class _Features:
    """Features of the decision points of one request, in order."""

    def __init__(self, keys: tuple[str, ...], hidden: bool, trial: bool) -> None:
        self._keys, self._hidden, self._trial = keys, hidden, trial
        self._logits: deque[float] = deque(maxlen=_STEPS)
        self._answer, self._equal = "", 0

    def __call__(self, point: Point) -> list[float]:
        row = [point.signals[key] for key in self._keys]
        if self._hidden:
            row += self._of_logit(point.logit)
        if self._trial:
            row += self._of_trial(point)
        return row

    def _of_logit(self, logit: float) -> list[float]:
        if not math.isnan(logit):
            self._logits.append(logit)
        return [logit, math.fsum(self._logits) / len(self._logits) if self._logits else math.nan]

    def _of_trial(self, point: Point) -> list[float]:
        trial = point.trial()
        self._equal = self._equal + 1 if trial.answer and trial.answer == self._answer else 0
        self._answer = trial.answer
        return [_log_odds(trial.confidence), _log_odds(trial.min_prob), float(self._equal)]


@dataclass(frozen=True)
class LogprobProbe(Learned):
    """Log-probability features only: no hidden states needed."""

    name = "logprob-probe"
    uses: ClassVar[frozenset[Use]] = frozenset({"statistics"})
    keys = _LOGPROBS


@dataclass(frozen=True)
class RunProbe(Learned):
    """Position, run-length and repetition features only."""

    name = "run-probe"
    uses: ClassVar[frozenset[Use]] = frozenset({"statistics"})
    keys = _RUNS


@dataclass(frozen=True)
class Combined(Learned):
    """Hidden states, log-probabilities and run lengths together."""

    name = "combined"
    uses: ClassVar[frozenset[Use]] = frozenset({"hidden", "statistics"})
    keys = (*_LOGPROBS, *_RUNS)
    penalties = _TOGETHER


def _log_odds(probability: float) -> float:
    bounded = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(bounded / (1 - bounded))


def _logistic(
    features: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    good: np.ndarray[tuple[int], np.dtype[np.bool_]],
    groups: np.ndarray[tuple[int], np.dtype[np.str_]],
    penalties: Sequence[float],
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], float]:
    linear = need("sklearn.linear_model", "calibrate")
    if len(set(good.tolist())) < 2:
        return np.zeros(features.shape[1]), 1.0 if good[0] else -1.0
    parts = _folds(good, groups) if len(penalties) > 1 else []

    def doubt(penalty: float) -> float:
        """Log loss on problems held out."""
        total = 0.0
        for train, test in parts:
            model = linear.LogisticRegression(C=penalty, max_iter=1000).fit(features[train], good[train])
            margin = model.decision_function(features[test]) * np.where(good[test], 1.0, -1.0)
            total += float(np.logaddexp(0.0, -margin).sum())
        return total

    best = min(penalties, key=doubt) if parts else penalties[0]
    model = linear.LogisticRegression(C=best, max_iter=1000).fit(features, good)
    return model.coef_[0], float(model.intercept_[0])


def _folds(
    good: np.ndarray[tuple[int], np.dtype[np.bool_]], groups: np.ndarray[tuple[int], np.dtype[np.str_]]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Folds of whole problems with both outcomes on the training side; none when there are too few."""
    least = min(len(set(groups[good == side].tolist())) for side in (True, False))
    if least < 2:
        return []
    splitter = need("sklearn.model_selection", "calibrate").StratifiedGroupKFold
    parts = splitter(min(5, least), shuffle=True, random_state=0).split(good, good, groups)
    return [(train, test) for train, test in parts if len(set(good[train].tolist())) == 2]
