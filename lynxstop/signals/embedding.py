"""Redundancy of a step by embeddings, with an embedder that the user gives."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.statistics import Statistics

Embedder = Callable[[Sequence[int]], NDArray[np.float32]]
"""From the token ids of a step to a vector."""


class EmbeddingRedundancy:
    """Largest cosine between the step that a cue just ended and the steps before it (PUMA, arXiv 2605.17672).

    The value at a cue is about the step that the *previous* cue began and this one ends; it is updated when
    the cue is settled, so a rule sees it from the next decision point on.

    Parameters
    ----------
    embed : callable
    window : int
        Earlier steps that are kept: the size of the state.
    longest : int
        Tokens of a step that are embedded, its last ones.
    least : int
        Shorter steps are left out.
    """

    def __init__(self, embed: Embedder, window: int = 16, longest: int = 512, least: int = 10) -> None:
        self._embed, self._least = embed, least
        self._step: deque[int] = deque(maxlen=longest)
        self._earlier: deque[NDArray[np.float64]] = deque(maxlen=window)
        self._value = math.nan

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token."""
        self._step.append(token)

    def cue(self, ago: int) -> None:
        """Embed the step that ended, and compare it."""
        tokens = list(self._step)
        ended, begun = (tokens[:-1], tokens[-1:]) if ago else (tokens, [])
        self._step = deque(begun, maxlen=self._step.maxlen)
        if len(ended) < self._least:
            return
        vector = np.asarray(self._embed(ended), np.float64)
        vector = vector / (float(np.linalg.norm(vector)) or 1.0)
        if self._earlier:
            self._value = max(float(vector @ earlier) for earlier in self._earlier)
        self._earlier.append(vector)

    def value(self) -> float:
        """Return the largest cosine of the last whole step; NaN before the second."""
        return self._value
