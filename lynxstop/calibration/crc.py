"""Conformal risk control: a bound on average over calibration sets, without a confidence level.

Angelopoulos et al. 2022 (arXiv 2208.02814), for losses bounded by 1 that grow as the threshold falls.
"""

from __future__ import annotations

import numpy as np

from lynxstop.calibration.case import Case, Verdict, conclude, fixed_sequence


def certify(case: Case, alpha: float, delta: float) -> Verdict:
    """E(risk of the returned threshold) <= alpha, for losses in [0, 1]; `delta` plays no part.

    The threshold is the smallest at which (sum of envelope losses + 1) / (n + 1) <= alpha.
    """
    curve = case.fine
    corrected = (curve.envelope + 1.0) / (curve.units + 1.0)
    last = fixed_sequence(corrected, alpha)
    return conclude(
        curve.thresholds,
        curve.envelope,
        curve.units,
        corrected,
        last,
        lambda losses, n: (losses + 1.0) / (n + 1.0),
        p_values=False,
    )


def certify_split(case: Case, alpha: float, delta: float) -> Verdict:
    """Request-level split conformal: the form of conformal risk control with one score per request.

    The score of a trace is its highest score over cues whose exit answer is bad, -inf without any; the
    threshold is its ceil((n + 1)(1 - alpha))-th smallest value, and inf when that rank exceeds n. A bad exit
    needs a bad cue above the threshold: E(risk) <= alpha, for losses of 0 or 1.
    """
    table = case.units.table
    bad = case.losses > 0
    worst = np.full(table.traces, -np.inf, dtype=np.float32)
    np.maximum.at(worst, table.owners[bad], table.scores[bad])
    thresholds = np.unique(worst[np.isfinite(worst)])[::-1]
    below = np.nextafter(table.scores.min(initial=np.float32(0.0)), np.float32(-np.inf), dtype=np.float32)
    thresholds = np.append(thresholds, below)
    above = len(worst) - np.searchsorted(np.sort(worst), thresholds, side="right").astype(np.float64)
    corrected = (above + 1.0) / (table.traces + 1.0)
    last = fixed_sequence(corrected, alpha)
    return conclude(
        thresholds,
        above,
        table.traces,
        corrected,
        last,
        lambda losses, n: (losses + 1.0) / (n + 1.0),
        p_values=False,
    )
