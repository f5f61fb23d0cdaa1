"""The stop rule: the one place where a stop is decided.

Its array form over many traces is `lynxstop.core.first_exit`; a property test checks that both agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lynxstop.core.policy import StopPolicy


class Eligibility:
    """Which decision points of one request may exit: the guards of a policy, applied in order.

    Every decision point of the policy's kinds is counted, eligible or not. A point is eligible when all hold:
    it lies at `min_tokens` or later, `cooldown` thinking tokens or more after the last eligible one, its
    ordinal (from 1) is a multiple of `stride`, and fewer than `max_points` were eligible before it.

    Parameters
    ----------
    policy : StopPolicy
        Holds the guards.

    Examples
    --------
    >>> eligibility = Eligibility(StopPolicy(exit_ids=(7,), min_tokens=10, cooldown=5))
    >>> [eligibility.admit(position) for position in (9, 12, 14, 17)]
    [False, True, False, True]
    """

    __slots__ = ("_admitted", "_last", "_number", "_policy")

    def __init__(self, policy: StopPolicy) -> None:
        self._policy = policy
        self._number = self._admitted = 0
        self._last: int | None = None

    def admit(self, position: int) -> bool:
        """Count the next decision point, and say whether it is eligible.

        Parameters
        ----------
        position : int
            Thinking tokens up to and including the token that completes it.
        """
        policy = self._policy
        self._number += 1
        if (
            position < policy.min_tokens
            or (self._last is not None and position - self._last < policy.cooldown)
            or self._number % policy.stride
            or (policy.max_points is not None and self._admitted >= policy.max_points)
        ):
            return False
        self._last = position
        self._admitted += 1
        return True

    @property
    def earlier(self) -> int:
        """Eligible decision points before the last eligible one."""
        return self._admitted - 1


def tilted(scores: ArrayLike, earlier: ArrayLike, tilt: float) -> NDArray[np.float32]:
    """Lower scores by `tilt` for each eligible decision point of the request before them.

    A late exit saves less than an early one and risks as much, so it has to be more certain.

    Parameters
    ----------
    scores, earlier : array_like
        Scores, and numbers of eligible decision points before them; of one shape.
    tilt : float
        Of the policy; 0 changes nothing.

    Returns
    -------
    array of float32
        Computed in float32, in two steps, so that every engine gets the same bits.

    Examples
    --------
    >>> tilted([1.0, 1.0, 1.0], [0, 1, 2], 0.25).tolist()
    [1.0, 0.75, 0.5]
    """
    lowered: NDArray[np.float32] = np.float32(tilt) * np.asarray(earlier, np.float32)
    return np.asarray(scores, np.float32) - lowered


def passes(score: float, threshold: float) -> bool:
    """Exit iff the float32 score strictly exceeds the threshold; NaN never exits."""
    return bool(np.float32(score) > np.float32(threshold))


def eligible_mask(policy: StopPolicy, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Apply `Eligibility` to all decision points of one trace, in order; both arrays have shape (points,)."""
    guards = Eligibility(policy)
    return np.fromiter(map(guards.admit, positions.tolist()), bool, len(positions))
