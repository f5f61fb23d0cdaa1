"""Risk-controlling prediction sets: a Clopper-Pearson limit on the monotone envelope.

Bates et al. 2021 (arXiv 2101.02703). The envelope charges a trace with its worst loss over this and all
stricter thresholds, so its risk only grows as the threshold falls, and every threshold may be looked at.
"""

from __future__ import annotations

from lynxstop.calibration.bounds import clopper_pearson_upper
from lynxstop.calibration.case import Case, Verdict, conclude, fixed_sequence


def certify(case: Case, alpha: float, delta: float) -> Verdict:
    """P(risk of the returned threshold <= alpha) >= 1 - delta, for losses of 0 or 1."""
    curve = case.fine
    limits = clopper_pearson_upper(curve.envelope, curve.units, delta)
    last = fixed_sequence(limits, alpha)
    return conclude(
        curve.thresholds,
        curve.envelope,
        curve.units,
        limits,
        last,
        lambda losses, n: float(clopper_pearson_upper(losses, n, delta)),
        p_values=False,
    )
