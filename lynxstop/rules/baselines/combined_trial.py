"""A probe on all features, those of a trial answer included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lynxstop.rules.base import Use
from lynxstop.rules.learned import Combined


@dataclass(frozen=True)
class CombinedTrial(Combined):
    """All of `combined`, and a trial answer at every point: what it would be worth, at its price."""

    name = "combined-trial"
    uses: ClassVar[frozenset[Use]] = frozenset({"hidden", "statistics", "trial"})
