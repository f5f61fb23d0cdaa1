"""Textual redundancy of a step, without a model: how many of its n-grams were written before."""

from __future__ import annotations

import math
from collections import deque

from lynxstop.core.statistics import Statistics

_BITS = 1 << 16


class Redundancy:
    """Share of the token n-grams since the last cue that had already occurred in this request, in [0, 1].

    Seen n-grams are kept in a bit table of fixed size (8 KiB), one bit each: a few thousand different ones
    leave the share of false matches below a tenth, and the same text always gives the same number.

    Parameters
    ----------
    size : int
        Tokens per n-gram.
    least : int
        N-grams a step needs before its share is defined.
    """

    def __init__(self, size: int = 4, least: int = 4) -> None:
        self._gram: deque[int] = deque(maxlen=size)
        self._size, self._least = size, least
        self._table = bytearray(_BITS // 8)
        self._seen = self._count = 0
        self._last = False

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token."""
        self._gram.append(token)
        if len(self._gram) < self._size:
            return
        place, bit = divmod(_hash(self._gram) % _BITS, 8)
        self._last = bool(self._table[place] >> bit & 1)
        self._table[place] |= 1 << bit
        self._seen += self._last
        self._count += 1

    def cue(self, ago: int) -> None:
        """Begin a step after the cue."""
        again = ago == 1 and self._count > 0
        self._count, self._seen = int(again), int(again and self._last)

    def value(self) -> float:
        """Return the share; NaN while the step is too short."""
        return self._seen / self._count if self._count >= self._least else math.nan


def _hash(tokens: deque[int]) -> int:
    """FNV-1a over token ids: the same in every process, unlike `hash` of texts."""
    value = 0xCBF29CE484222325
    for token in tokens:
        value = ((value ^ token) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 29
