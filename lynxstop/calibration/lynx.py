"""The rule of the LYNX paper: class-conditional split conformal per cue.

Akgül et al. 2025 (arXiv 2512.05325), with the rank beyond n taken as infinity instead of clipped. It promises
P(exit | this cue's exit answer is bad) <= alpha on average over calibration sets, per cue and for
exchangeable cues. It promises nothing per request: a request exits at the first of many cues.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.case import Case, Sequence, Verdict


def certify(case: Case, alpha: float, delta: float) -> Verdict:
    """Exit iff the conformal set of a cue is exactly {right}, at miscoverage `alpha`; `delta` is not used."""
    scores, bad = case.units.table.scores, case.losses > 0
    n = int(bad.sum())
    ceiling = conformal_quantile(scores[bad], alpha)
    floor = -conformal_quantile(-scores[~bad], alpha)
    # A score at the floor still has "right" in its set; exits are strict, hence the next smaller number.
    below_floor = np.nextafter(np.float32(floor), np.float32(-np.inf), dtype=np.float32)
    threshold = float(max(np.float32(ceiling), below_floor))
    losses = float((scores[bad] > np.float32(threshold)).sum())
    tested = Sequence(
        np.array([threshold]),
        np.array([losses]),
        np.array([float(n)]),
        np.array([(losses + 1.0) / (n + 1.0)]),
    )
    bound = None if np.isinf(threshold) else (losses + 1.0) / (n + 1.0)
    return Verdict(threshold, losses, n, None, bound, tested)


def conformal_quantile(scores: NDArray[np.float32], alpha: float) -> float:
    """Return the ceil((n + 1)(1 - alpha))-th smallest score, and inf when that rank exceeds n."""
    n = len(scores)
    # (n + 1)(1 - alpha) may be an integer in the reals and a hair above it in floats.
    rank = max(1, n + 1 - int(np.floor((n + 1) * alpha + 1e-9)))
    if rank > n:
        return float("inf")
    return float(np.partition(scores, rank - 1)[rank - 1])
