"""The stop rule: the one place where a stop is decided.

The session uses the scalar form, replay the array form; a property test checks that they agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.policy import StopPolicy


def eligible(policy: StopPolicy, position: int, last: int | None) -> bool:
    """Say whether a cue may be scored at all.

    Parameters
    ----------
    policy : StopPolicy
        Holds the guards `min_tokens` and `cooldown`.
    position : int
        Thinking tokens up to and including the token that completes the cue.
    last : int or None
        Position of the last cue that was eligible, None before the first.
    """
    return position >= policy.min_tokens and (last is None or position - last >= policy.cooldown)


def passes(score: float, threshold: float) -> bool:
    """Exit iff the float32 score strictly exceeds the threshold; NaN never exits."""
    return bool(np.float32(score) > np.float32(threshold))


def eligible_mask(policy: StopPolicy, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Apply `eligible` to all cues of one trace, in order; shape (cues,)."""
    mask = np.zeros(len(positions), dtype=bool)
    last: int | None = None
    for i, position in enumerate(positions.tolist()):
        if eligible(policy, position, last):
            mask[i] = True
            last = position
    return mask


def first_exit(scores: NDArray[np.float32], mask: NDArray[np.bool_], threshold: float) -> int:
    """Index of the first eligible cue whose score passes, or -1; `scores` and `mask` have shape (cues,)."""
    hits = np.flatnonzero(mask & (scores.astype(np.float32) > np.float32(threshold)))
    return int(hits[0]) if len(hits) else -1
