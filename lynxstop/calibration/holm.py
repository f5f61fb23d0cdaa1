"""Learn then Test with Holm's correction, through MAPIE's `BinaryClassificationController`.

Needs no order of thresholds, and pays for that: it is the cross-check of `ltt`, not its replacement.
"""

from __future__ import annotations

import warnings

import numpy as np

from lynxstop.calibration.bounds import binomial_p, clopper_pearson_upper
from lynxstop.calibration.case import Case, Floats, Sequence, Verdict
from lynxstop.errors import CalibrationError
from lynxstop.extras import need

POINTS = 100
"""Holm pays for every threshold, so the grid is thinned to this many."""


def certify(case: Case, alpha: float, delta: float) -> Verdict:
    """P(risk of the returned threshold <= alpha) >= 1 - delta, for losses of 0 or 1; needs a grid."""
    if case.grid is None:
        raise CalibrationError(
            "Holm's correction needs a finite grid of thresholds.",
            hint="Give the scores of the training split.",
        )
    grid = case.grid[np.unique(np.linspace(0, len(case.grid) - 1, POINTS).astype(int))]
    curve = case.at(grid)
    p_values = binomial_p(curve.losses, curve.units, alpha)
    valid = _valid(_loss_matrix(case, curve.losses), alpha, delta)
    tested = Sequence(grid.astype(np.float64), curve.losses, np.full(len(grid), float(curve.units)), p_values)
    if not len(valid):
        return Verdict(float("inf"), 0.0, curve.units, None, None, tested)
    last = int(valid.max())
    bound = float(clopper_pearson_upper(curve.losses[last], curve.units, delta))
    return Verdict(
        float(grid[last]), float(curve.losses[last]), curve.units, float(p_values[last]), bound, tested
    )


def _loss_matrix(case: Case, totals: Floats) -> Floats:
    """Losses as (units, thresholds): a controller looks at columns only, so who lost does not matter."""
    return (np.arange(case.units.count)[:, None] < totals[None, :]).astype(np.float64)


def _valid(losses: Floats, alpha: float, delta: float) -> np.ndarray:
    """Indices of the thresholds that MAPIE accepts."""
    control = need("mapie.risk_control", "calibrate")
    everyone = np.ones(len(losses), dtype=bool)
    lost = control.BinaryRisk(lambda _, column: column == 1, lambda _, column: everyone, False)
    controller = control.BinaryClassificationController(
        lambda rows, column: losses[np.asarray(rows)[:, 0], int(column)],
        lost,
        alpha,
        1.0 - delta,
        best_predict_param_choice=lost,
        list_predict_params=np.arange(losses.shape[1])[:, None],
        fwer_method="bonferroni_holm",
    )
    with warnings.catch_warnings():
        # It warns when every threshold or none is valid; both are ordinary results here.
        warnings.simplefilter("ignore", UserWarning)
        controller.calibrate(np.arange(len(losses))[:, None], np.zeros(len(losses), dtype=int))
    return np.asarray(controller.valid_predict_params, dtype=int).ravel()
