"""What a server shows of one token, and what that says about the token before it."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lynxstop.core.judging import Statistics

_FOUR = struct.Struct("4f")


class Top(NamedTuple):
    """The most likely tokens of a distribution: texts, and log-probabilities in nats, in the same order."""

    texts: Sequence[str] = ()
    values: Sequence[float] = ()


class StreamToken(NamedTuple):
    """One token as a server streams it.

    Parameters
    ----------
    text : bytes
    logprob : float
        Log-probability of the token itself, in nats; NaN where it is not given.
    top : Top
        Of the distribution it was drawn from.
    id : int, optional
        In the server's vocabulary, if it tells.
    """

    text: bytes
    logprob: float = math.nan
    top: Top = Top()
    id: int | None = None


OPENED, CLOSED = StreamToken(b"", id=0), StreamToken(b"", id=1)
"""Marks in a list of tokens: text went to the field of thinking, or away from it."""


def written(tokens: Iterable[StreamToken]) -> list[StreamToken]:
    """Return the tokens that are no marks."""
    return [token for token in tokens if token is not OPENED and token is not CLOSED]


def beginnings(text: str) -> frozenset[str]:
    """All texts that `text` begins with."""
    return frozenset(text[:end] for end in range(1, len(text) + 1))


def behind(top: Top, logprob: float, exits: frozenset[str]) -> Statistics:
    """Statistics behind a token, from the most likely tokens of the distribution that follows it.

    The mass outside the top k counts as one token: the entropy is then a lower bound of the true one. The end
    of thinking is the most likely token that begins the exit text; when there is none among the top k, its
    log-probability is at most that of the k-th, and the margin returned is that lower bound. All numbers are
    rounded to float32: what is recorded, and replayed, is what was decided on.

    Parameters
    ----------
    top : Top
        At least 2 tokens; else all but `logprob` are NaN.
    logprob : float
        Of the token itself.
    exits : frozenset of str
        The `beginnings` of the exit text.
    """
    texts, values = top
    if len(values) < 2:
        return _single(math.nan, math.nan, math.nan, logprob)
    shares = list(map(math.exp, values))
    entropy = -sum(map(operator.mul, shares, values))
    rest = 1.0 - sum(shares)
    if rest > 0.0:
        entropy -= rest * math.log(rest)
    order = sorted(values, reverse=True)
    ends = [value for text, value in zip(texts, values, strict=True) if text in exits]
    end = max(ends) if ends else order[-1]
    return _single(max(entropy, 0.0), order[0] - order[1], order[0] - end, logprob)


def _single(*values: float) -> Statistics:
    return Statistics(*_FOUR.unpack(_FOUR.pack(*values)))
