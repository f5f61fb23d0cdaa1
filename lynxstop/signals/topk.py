"""Statistics from the top log-probabilities that a server gives, the rest in one residual bucket."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lynxstop.core.judging import Statistics


def from_top_logprobs(top: Mapping[int, float], logprob: float, end_token: int) -> Statistics:
    """Statistics of a token from the k most likely ones behind it.

    The mass outside the top k counts as one token: the entropy is then a lower bound of the true one.
    When the end of thinking is not among the top k, its log-probability is at most that of the k-th, and the
    margin returned is that lower bound.

    Parameters
    ----------
    top : mapping of int to float
        Token ids to log-probabilities, the k most likely, k >= 2.
    logprob : float
        Of the token itself.
    end_token : int
        First token of the forced exit.
    """
    values = sorted(top.values(), reverse=True)
    if len(values) < 2:
        return Statistics(math.nan, math.nan, math.nan, logprob)
    mass = [math.exp(value) for value in values]
    rest = max(0.0, 1.0 - math.fsum(mass))
    entropy = -math.fsum(m * v for m, v in zip(mass, values, strict=True) if m > 0.0)
    if rest > 0.0:
        entropy -= rest * math.log(rest)
    end = top.get(end_token, values[-1])
    return Statistics(max(entropy, 0.0), values[0] - values[1], values[0] - end, logprob)
