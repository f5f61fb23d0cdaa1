"""The risk among the requests that exit, P(loss | exit), by Learn then Test.

At the strictest thresholds too few requests exit to reject anything, so the sequence starts where the
training split leads one to expect enough exits. Given which requests exit, their losses are independent with
the conditional risk, so the binomial test on the exits alone is exact.
"""

from __future__ import annotations

from lynxstop.calibration.bounds import binomial_p, clopper_pearson_upper
from lynxstop.calibration.case import Case, Verdict, learn_then_test
from lynxstop.errors import CalibrationError


def certify(case: Case, alpha: float, delta: float) -> Verdict:
    """P(P(loss | exit) <= alpha) >= 1 - delta, for losses of 0 or 1; needs training traces."""
    if case.start is None:
        raise CalibrationError(
            "The selective risk needs training traces: they choose where its sequence starts.",
            hint="Give the traces of the training split, or certify a loss over all requests.",
        )
    curve = case.curve
    losses, exits = curve.losses[case.start :], curve.exits[case.start :]
    thresholds = curve.thresholds[case.start :]
    return learn_then_test(thresholds, losses, exits, alpha, delta, binomial_p, clopper_pearson_upper)
