"""What a server shows of one token, and what that says about the token before it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lynxstop.core.judging import Statistics

_FOUR = struct.Struct("4f")


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


OPENED, CLOSED = StreamToken(b"", id=0), StreamToken(b"", id=1)
"""Marks in a list of tokens: text went to the field of thinking, or away from it."""


def written(tokens: Iterable[StreamToken]) -> list[StreamToken]:
    """Return the tokens that are no marks."""
    return [token for token in tokens if token is not OPENED and token is not CLOSED]


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
        return _single(math.nan, math.nan, math.nan, logprob)
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
    return _single(max(entropy, 0.0), first - second, first - max(end, least), logprob)


def _single(*values: float) -> Statistics:
    """Round to float32: what is recorded, and replayed, is what was decided on."""
    return Statistics(*_FOUR.unpack(_FOUR.pack(*values)))
