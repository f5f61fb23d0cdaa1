"""Reasoning path deviation from entropy: the mean over the last tokens against the mean over all."""

from __future__ import annotations

import math
from collections import deque

from lynxstop.core.statistics import Statistics
from lynxstop.signals.base import Plain


class PathDeviation(Plain):
    """RPDI_i = mean entropy of the last W tokens / mean entropy of all thinking tokens so far.

    Defined from token W on. Running sums: O(1) per token, W numbers of state. Tokens of unknown entropy
    are skipped.

    Parameters
    ----------
    window : int
        W. Readers of the paper take 512.

    References
    ----------
    Guan et al. 2026, arXiv 2603.14251 (RPDI-EE).
    """

    def __init__(self, window: int = 512) -> None:
        self._last: deque[float] = deque(maxlen=window)
        self._window = window
        self._local = 0.0
        self._total = 0.0
        self._count = 0

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token."""
        entropy = statistics.entropy
        if math.isnan(entropy):
            return
        if len(self._last) == self._window:
            self._local -= self._last[0]
        self._last.append(entropy)
        self._local += entropy
        self._total += entropy
        self._count += 1
        if self._count % self._window == 0:
            self._local = math.fsum(self._last)

    def value(self) -> float:
        """Return the ratio; NaN before token W, and while all entropies were zero."""
        if self._count < self._window or self._total <= 0.0:
            return math.nan
        return (self._local / self._window) / (self._total / self._count)
