"""RPDI-EE: a lower exit, when the path has derailed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from lynxstop.rules.base import Rule, Score, Training


@dataclass(frozen=True)
class Rpdi(Rule):
    """Local over global mean entropy exceeds 2 (Guan et al. 2026; readers disagree on 2 or 3)."""

    name = "rpdi"
    paper = "2603.14251"
    uses = frozenset({"statistics"})
    window: int = 512
    limit: float = 2.0

    @property
    def signals(self) -> tuple[str, ...]:
        """Keys of the signals it reads."""
        return (f"rpdi:{self.window}",)

    @property
    def published(self) -> float:
        """Lambda."""
        return self.limit


@dataclass(frozen=True)
class RpdiTransitions(Rpdi):
    """The same ratio of the frequencies of high-entropy tokens."""

    name = "rpdi-transitions"
    cut: float = 2.5

    @property
    def signals(self) -> tuple[str, ...]:
        """Keys of the signals it reads."""
        return (f"transitions:{self.window}:{float(self.cut)}",)


@dataclass(frozen=True)
class RpdiShort(Rpdi):
    """RPDI with a window for short traces: of 16, 32, 64 and 128 the one that ranks training points best."""

    name = "rpdi-short"
    signals = tuple(f"rpdi:{window}" for window in (16, 32, 64, 128))
    window: int = 32

    def fit(self, training: Training) -> Self:
        """Choose the window."""
        good = training.good
        best = max(
            (16, 32, 64, 128),
            key=lambda w: _separation(training.column(lambda p: p.signals[f"rpdi:{w}"]), good),
        )
        return replace(self, window=best)

    def start(self) -> Score:
        """Begin a request."""
        key = f"rpdi:{self.window}"
        return lambda point: point.signals[key]


def _separation(
    values: np.ndarray[tuple[int], np.dtype[np.float64]], good: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> float:
    """Standardised difference of the means of good and bad points; 0 where one side is empty."""
    known = np.isfinite(values)
    if not (known & good).any() or not (known & ~good).any():
        return 0.0
    return float((values[known & good].mean() - values[known & ~good].mean()) / (values[known].std() or 1.0))
