"""What a server shows of one token, and what that says about the token before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lynxstop.core.judging import Statistics


class StreamToken(NamedTuple):
    """One token as a server streams it.

    Parameters
    ----------
    text : bytes
    logprob : float
        Log-probability of the token itself, in nats; NaN where it is not given.
    top : sequence of (bytes, float)
        The most likely tokens of the distribution it was drawn from, and their log-probabilities.
    id : int, optional
        In the server's vocabulary, if it tells.
    """

    text: bytes
    logprob: float = math.nan
    top: Sequence[tuple[bytes, float]] = ()
    id: int | None = None


def behind(top: Sequence[tuple[bytes, float]], logprob: float, exit_text: bytes) -> Statistics:
    """Statistics behind a token, from the most likely tokens of the distribution that follows it.

    The mass outside the top k counts as one token: the entropy is then a lower bound of the true one. The end
    of thinking is the most likely token that begins `exit_text`; when there is none among the top k, its
    log-probability is at most that of the k-th, and the margin returned is that lower bound.

    Parameters
    ----------
    top : sequence of (bytes, float)
        Texts and log-probabilities, in nats, k >= 2; else all but `logprob` are NaN.
    logprob : float
        Of the token itself.
    exit_text : bytes
        The text that is forced at an exit.
    """
    if len(top) < 2:
        return Statistics(math.nan, math.nan, math.nan, logprob)
    first = second = end = -math.inf
    least, mass, entropy = math.inf, 0.0, 0.0
    for text, value in top:
        if value > first:
            first, second = value, first
        elif value > second:
            second = value
        least = min(least, value)
        if value > end and text and exit_text.startswith(text):
            end = value
        share = math.exp(value)
        mass += share
        if share:
            entropy -= share * value
    rest = 1.0 - mass
    if rest > 0.0:
        entropy -= rest * math.log(rest)
    return Statistics(max(entropy, 0.0), first - second, first - max(end, least), logprob)
