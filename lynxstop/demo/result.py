"""The demo's numbers, as one plain object."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lynxstop.artifacts.bundle import Bundle
from lynxstop.calibration.bounds import clopper_pearson_upper
from lynxstop.calibration.certificate import Certificate
from lynxstop.demo.run import Demonstration
from lynxstop.replay.outcomes import summarize


def result(seen: Demonstration, bundle: Bundle, risk: float) -> dict[str, Any]:
    """Summarise a demonstration beside the certificate it was run under.

    Returns
    -------
    dict
        `risk_bound` is the certificate's upper limit of the risk at its threshold, and `observed_bound` the
        upper confidence limit from these very requests.
    """
    level = next(level for level in bundle.policy.pooled if level.risk == risk)
    certificate = Certificate.load(bundle.path / level.certificate)
    summary = summarize(seen.outcomes)
    delta = 1 - level.confidence
    return {
        "certified_risk": risk,
        "confidence": level.confidence,
        "loss": level.loss,
        "method": level.method,
        "threshold": level.threshold,
        "risk_bound": certificate.bound,
        "calibrated_on": certificate.problems,
        "promise": certificate.promise,
        **asdict(summary),
        "share_of_oracle": summary.share_of_oracle,
        "observed_bound": float(clopper_pearson_upper(summary.disagree, summary.n_problems, delta)),
        "identical_until_exit": _identical(seen),
        "seconds_full": seen.seconds_full,
        "seconds_early": seen.seconds_early,
    }


def _identical(seen: Demonstration) -> bool:
    """Whether every early-exit run equals its full trace up to the exit."""
    for full, early in zip(seen.full, seen.early, strict=True):
        end = len(early.output_ids) if early.exit is None else early.exit.seen_at + 1
        if early.output_ids[:end] != full.output_ids[:end]:
            return False
    return True
