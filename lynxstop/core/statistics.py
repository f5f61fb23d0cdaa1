"""The statistics of a generated token: their names, order, type and definitions, in one place.

A new statistic is a field of `Statistics`, before `logprob`, and a row of `DEFINITIONS`; engines,
recordings and signals take names, order and width from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Statistics(NamedTuple):
    """What an engine knows after one generated token; all in nats, NaN where unknown.

    All but `logprob` describe the distribution of the *next* token.
    """

    entropy: float
    """Shannon entropy."""
    top_gap: float
    """Log-probability of the most likely token minus that of the second."""
    end_margin: float
    """Log-probability of the most likely token minus that of the first exit token."""
    logprob: float
    """Log-probability of the token itself."""


class NextToken(NamedTuple):
    """What the statistics of next-token distributions are computed from.

    Arrays or tensors of shape (tokens,), in nats.
    """

    entropy: Any
    first: Any
    """Log-probability of the most likely token."""
    second: Any
    """Log-probability of the second most likely token."""
    end: Any
    """Log-probability of the first exit token."""


DEFINITIONS: dict[str, Callable[[NextToken], Any]] = {
    "entropy": lambda seen: seen.entropy,
    "top_gap": lambda seen: seen.first - seen.second,
    "end_margin": lambda seen: seen.first - seen.end,
}
"""How each statistic of the next-token distribution is computed, in the order of `Statistics`.

An entropy below 0 by rounding is left to the engine."""

LEAST = -1e30
"""The logit of an impossible token, where zero times it has to be zero."""

DTYPE = np.float32
WIDTH = len(Statistics._fields)
"""Columns of an array of statistics."""
NEXT = len(DEFINITIONS)
"""How many of them, the first ones, describe the distribution of the next token."""
LOGPROB = Statistics._fields.index("logprob")
"""Column of the token's own log-probability."""

UNKNOWN = Statistics(*[math.nan] * WIDTH)
"""The statistics of a token of which nothing is known."""


def unknown(tokens: int) -> NDArray[np.float32]:
    """Return statistics of so many tokens, all NaN, to be filled in: float32, shape (tokens, WIDTH)."""
    return np.full((tokens, WIDTH), np.nan, DTYPE)
