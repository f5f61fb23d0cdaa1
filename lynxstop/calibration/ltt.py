"""Learn then Test: exact binomial p-values in a fixed sequence.

Angelopoulos et al. 2021 (arXiv 2110.01052). Needs no monotone loss: an exit answer that is right may turn
wrong later. The sequence runs from the strictest threshold to the most lenient, over thresholds that were
fixed on the training split, or over all float32 numbers: a finite sequence too, fixed by the number format.
"""

from __future__ import annotations

from lynxstop.calibration.bounds import binomial_p, clopper_pearson_upper
from lynxstop.calibration.case import Case, Verdict, learn_then_test


def certify(case: Case, alpha: float, delta: float) -> Verdict:
    """P(risk of the returned threshold <= alpha) >= 1 - delta, for losses of 0 or 1."""
    curve = case.curve
    return learn_then_test(
        curve.thresholds, curve.losses, curve.units, alpha, delta, binomial_p, clopper_pearson_upper
    )
