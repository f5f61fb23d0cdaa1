"""Repetition loops: how often the last tokens have repeated the ones before them."""

from __future__ import annotations

import numpy as np

from lynxstop.core.judging import Statistics
from lynxstop.signals.base import Plain


class Loop(Plain):
    """Most repetitions, over all periods up to a limit, of the period that the stream now ends on.

    With run_p the number of last tokens that equal the token p places before them, the value is the maximum
    over p of run_p / p: 0 without repetition, 1 when a passage stands twice in a row, 2 for three times.

    Parameters
    ----------
    longest : int
        Longest period, in tokens: the size of the state.
    """

    def __init__(self, longest: int = 64) -> None:
        self._before = np.full(longest, -1, np.int64)
        self._runs = np.zeros(longest, np.int64)
        self._periods = np.arange(1, longest + 1)
        self._count = 0

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token."""
        places = (self._count - self._periods) % len(self._before)
        self._runs = (self._runs + 1) * (self._before[places] == token)
        self._before[self._count % len(self._before)] = token
        self._count += 1

    def value(self) -> float:
        """Return the number of repetitions."""
        return float((self._runs / self._periods).max())
