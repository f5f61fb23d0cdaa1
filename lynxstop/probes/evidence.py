"""Evidence for a trained score: how well it predicts, on problems that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.extras import need
from lynxstop.probes.target import Target


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Evidence:
    """Scores out of fold, and what they come to.

    Parameters
    ----------
    auc : float
        Of the out-of-fold scores of all points together.
    rivals : dict of str to float
        AUC of each signal of `lynxstop.probes.rivals` alone, by the same folds and over the same points.
    platt : tuple of float
        Slope and intercept: ``sigmoid(slope * score + intercept)`` is a calibrated probability (Platt 1999),
        from out-of-fold scores. It is for people to read; decisions compare scores.
    scores : ndarray
        Out-of-fold scores, float32, shape (points of the data set,): calibration fixes its threshold grid on
        them. NaN where there is none: the target is unknown, a rule abstains, a guard keeps it from deciding.
    target : {"agrees", "right"}
    cues, problems : int
        Scored points that it was measured on, and their problems.
    rate : float
        Share of these points where the target holds.
    problem_ids : tuple of str
        The training problems; calibration must not use them.
    """

    auc: float
    rivals: dict[str, float]
    platt: tuple[float, float]
    scores: NDArray[np.float32]
    target: Target
    cues: int
    problems: int
    rate: float
    problem_ids: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """All but arrays, ready for JSON."""
        return {
            "target": self.target,
            "cues": self.cues,
            "problems": self.problems,
            "rate": self.rate,
            "auc": self.auc,
            "rivals": self.rivals,
            "platt": list(self.platt),
        }


def platt(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of the logistic curve through the scores."""
    model = (
        need("sklearn.linear_model", "calibrate")
        .LogisticRegression(C=1e6)
        .fit(scores[:, None].astype(np.float64), truth)
    )
    return float(model.coef_[0, 0]), float(model.intercept_[0])
