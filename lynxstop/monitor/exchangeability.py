"""Label-free warning: do live scores still look like those of calibration?

A conformal test martingale on one number per request (the score at the first decision point, the number of
cues). It needs no audited answer; it says that inputs changed, never that the risk did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lynxstop.errors import DataError

_BINS = 64
_JUMP = 0.01
_BETS = np.array([-1.0, 0.0, 1.0])


@dataclass(slots=True)
class ExchangeabilityTest:
    """Simple-jumper conformal martingale over binned values.

    While live values and those of calibration are exchangeable, the martingale reaches 1 / level with
    probability at most `level` (Vovk et al. 2021, arXiv 2102.10439).

    Parameters
    ----------
    edges : tuple of float
        Ascending inner edges of the bins: quantiles of the reference values.
    counts : int64 array, shape (bins,)
        Values seen in each bin, those of calibration included; a further bin holds requests without a value.
    level : float
    """

    edges: tuple[float, ...]
    counts: NDArray[np.int64]
    level: float = 0.01
    capital: NDArray[np.float64] = field(default_factory=lambda: np.full(3, 1 / 3))
    log_scale: float = 0.0
    highest: float = 0.0

    @classmethod
    def from_reference(cls, values: ArrayLike, level: float = 0.01) -> Self:
        """Start from the values of calibration, one per request; NaN where a request has none."""
        given = np.asarray(values, np.float64)
        known = given[~np.isnan(given)]
        quantiles = np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1]) if len(known) else np.zeros(0)
        edges = tuple(np.unique(quantiles).tolist())
        test = cls(edges, np.zeros(len(edges) + 2, np.int64), level)
        np.add.at(test.counts, [test._bin(value) for value in given], 1)
        return test

    def add(self, value: float, uniform: float) -> None:
        """Read the value of one request (NaN: it has none) with an independent number in [0, 1)."""
        place = self._bin(value)
        below, equal, total = self.counts[:place].sum(), self.counts[place], self.counts.sum()
        p_value = (float(below) + uniform * float(equal + 1)) / float(total + 1)
        self.counts[place] += 1
        mixed = (1 - _JUMP) * self.capital + _JUMP * self.capital.mean()
        grown = mixed * (1 + _BETS * (p_value - 0.5))
        size = float(grown.sum())
        self.capital = grown / size
        self.log_scale += math.log(size)
        self.highest = max(self.highest, self.log_scale)

    @property
    def warning(self) -> bool:
        """Whether the martingale has ever reached 1 / level."""
        return self.highest >= -math.log(self.level)

    def _bin(self, value: float) -> int:
        return len(self.edges) + 1 if math.isnan(value) else int(np.searchsorted(self.edges, value, "right"))

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {
            "edges": list(self.edges),
            "counts": self.counts.tolist(),
            "level": self.level,
            "capital": self.capital.tolist(),
            "log_scale": self.log_scale,
            "highest": self.highest,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Restore a state."""
        counts, edges = np.asarray(content["counts"], np.int64), _ascending(content["edges"])
        if counts.shape != (len(edges) + 2,) or (counts < 0).any():
            raise DataError("The state of the exchangeability test is damaged.")
        capital = np.asarray(content["capital"], np.float64)
        scale, highest = float(content["log_scale"]), float(content["highest"])
        return cls(edges, counts, float(content["level"]), capital, scale, highest)


def _ascending(values: Sequence[float]) -> tuple[float, ...]:
    edges = tuple(map(float, values))
    if any(not a < b for a, b in pairwise(edges)):
        raise DataError("The state of the exchangeability test is damaged.")
    return edges
