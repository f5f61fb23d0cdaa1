"""Conformal risk control under covariate shift.

Weighted conformal prediction (Tibshirani et al. 2019, arXiv 1904.06019) carried to risk control: calibration
requests count by the likelihood ratio of their prompts, serving over calibration. The bound is on average
over calibration sets and over serving requests whose weight is at most the given limit; estimated weights
make it approximate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.case import Case, Floats, Verdict, conclude, fixed_sequence
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.units import Units
from lynxstop.errors import CalibrationError, DataError
from lynxstop.extras import need

_LARGEST = 1e100
ESS_FLOOR = 100.0
"""Below this effective sample size nothing is certified."""
_BEYOND = 0.05
"""Share of serving prompts that may look less like calibration than any calibration prompt does."""


def certify(case: Case, alpha: float, delta: float) -> Verdict:
    """E(risk under the shifted mix) <= alpha, for losses in [0, 1]; needs weights.

    The threshold is the smallest at which (sum w L + limit) / (sum w + limit) <= alpha, with L the envelope
    and `limit` the largest weight of a serving request. Too small an effective sample size refuses.
    """
    if case.importance is None:
        raise CalibrationError("Weighted risk control needs one weight per trace.")
    weights = check_weights(case.importance, case.units.table)
    highest = highest_weight(case)
    if highest < weights.max():
        raise DataError(
            f"A weight of {weights.max():g} exceeds the limit of {highest:g}.",
            hint="The limit bounds the weights of future requests, and so of these.",
        )
    shared = weights * case.units.weights
    curve = case.at(case.fine.thresholds, shared)
    corrected = (curve.envelope + highest) / (shared.sum() + highest)
    enough = effective_size(case.units, weights) >= ESS_FLOOR
    last = fixed_sequence(corrected, alpha) if enough else -1
    return conclude(
        curve.thresholds,
        curve.envelope,
        curve.units,
        corrected,
        last,
        lambda losses, n: (losses + highest) / (float(shared.sum()) + highest),
        p_values=False,
    )


def highest_weight(case: Case) -> float:
    """Largest weight that a future request may have: the given limit, or the largest one seen."""
    if case.importance_limit is not None:
        return case.importance_limit
    return 1.0 if case.importance is None else float(case.importance.max())


def effective_size(units: Units, weights: Floats) -> float:
    """(sum w)^2 / sum w^2 over problems: how many unweighted ones these are worth."""
    _, problem = np.unique(units.table.problem_ids, return_inverse=True)
    per_problem = np.bincount(problem, weights * units.weights)
    return float(per_problem.sum() ** 2 / np.square(per_problem).sum())


def check_weights(weights: Floats, table: TraceTable) -> Floats:
    """Refuse weights that are not finite, not positive in sum, not one per trace, or not of the problem."""
    if len(weights) != table.traces:
        raise DataError(f"{table.traces} traces but {len(weights)} weights.")
    _, first, problem = np.unique(table.problem_ids, return_index=True, return_inverse=True)
    if not np.array_equal(weights, weights[first][problem], equal_nan=True):
        raise DataError(
            "Samples of one problem have different weights.", hint="Weigh a request by its prompt alone."
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise DataError("Weights are finite and not negative, and some are positive.")
    if weights.max() > _LARGEST or weights.max() < 1 / _LARGEST:
        raise DataError(
            f"The largest weight is {weights.max():g}: such weights cannot be added up.",
            hint="Divide all of them by their mean.",
        )
    return weights


def estimate_weights(
    calibration: NDArray[np.float64], serving: NDArray[np.float64], *, seed: int = 0, folds: int = 5
) -> Floats:
    """Estimate likelihood ratios from prompt features, by a cross-fitted logistic classifier.

    Parameters
    ----------
    calibration, serving : shape (requests, features)
        Features of prompts only: nothing that the answer decides.

    Returns
    -------
    array, shape (calibration requests,)
        Ratios with mean 1.

    Raises
    ------
    DataError
        When the features do not fit, or many serving prompts look like no calibration prompt: a ratio is then
        no estimate of anything.
    """
    linear = need("sklearn.linear_model", "calibrate")
    pipeline = need("sklearn.pipeline", "calibrate")
    scaling = need("sklearn.preprocessing", "calibrate")
    selection = need("sklearn.model_selection", "calibrate")
    if calibration.ndim != 2 or serving.ndim != 2 or calibration.shape[1] != serving.shape[1]:
        raise DataError("Prompt features of both mixes are tables with the same columns.")
    features = np.concatenate([calibration, serving])
    if not np.isfinite(features).all() or min(len(calibration), len(serving)) < folds:
        raise DataError(f"Prompt features must be finite, with at least {folds} prompts in each mix.")
    origin = np.repeat([0, 1], [len(calibration), len(serving)])
    model = pipeline.make_pipeline(scaling.StandardScaler(), linear.LogisticRegression(max_iter=1000))
    splits = selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
    log_odds = selection.cross_val_predict(model, features, origin, cv=splits, method="decision_function")
    beyond = float((log_odds[len(calibration) :] > log_odds[: len(calibration)].max()).mean())
    if beyond > _BEYOND:
        raise DataError(
            f"The two mixes of prompts hardly overlap: {beyond:.0%} of the serving prompts look like none of "
            "the calibration prompts.",
            hint="Collect prompts like those that are served; weights cannot stand in for them.",
        )
    ratio = np.exp(np.clip(log_odds[: len(calibration)], -30, 30))
    return np.asarray(ratio / ratio.mean(), dtype=np.float64)
