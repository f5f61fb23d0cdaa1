"""Statistics of the next token: entropy, gap of the top two, margin to the end of thinking."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lynxstop.core.statistics import Statistics
from lynxstop.signals.base import Plain


class Latest(Plain):
    """One of the last token's `Statistics`.

    Parameters
    ----------
    name : {"entropy", "top_gap", "end_margin"}
        "entropy" of the next token, in nats; "top_gap", the first minus the second log-probability (the
        signal of Prophet); "end_margin", the first minus that of the end of thinking (ThinkBrake,
        arXiv 2510.00546).
    """

    def __init__(self, name: str) -> None:
        self._place = Statistics._fields.index(name)
        self._value = math.nan

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token."""
        self._value = statistics[self._place]

    def steps(self, tokens: Sequence[int], statistics: Sequence[Statistics]) -> None:
        """Read thinking tokens in a row."""
        self.step(tokens[-1], statistics[-1])

    def value(self) -> float:
        """Return the statistic after the last token."""
        return self._value
