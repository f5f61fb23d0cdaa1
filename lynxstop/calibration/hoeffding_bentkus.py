"""Learn then Test for losses in [0, 1], with Hoeffding-Bentkus p-values.

Bates et al. 2021 (arXiv 2101.02703). Valid for graded losses and for the mean loss of a problem's samples.
"""

from __future__ import annotations

from lynxstop.calibration.bounds import hoeffding_bentkus_p, hoeffding_bentkus_upper
from lynxstop.calibration.case import Case, Verdict, learn_then_test


def certify(case: Case, alpha: float, delta: float) -> Verdict:
    """P(mean loss of the returned threshold <= alpha) >= 1 - delta, for losses in [0, 1]."""
    curve = case.curve
    return learn_then_test(
        curve.thresholds,
        curve.losses,
        curve.units,
        alpha,
        delta,
        hoeffding_bentkus_p,
        hoeffding_bentkus_upper,
    )
