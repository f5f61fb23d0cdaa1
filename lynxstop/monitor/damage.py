"""Which of a journal's damaged lines count for a level: those since the last reset that is about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from lynxstop.monitor.entries import Reset
from lynxstop.monitor.monitor import LevelKey


@dataclass(slots=True)
class Damage:
    """Counts damaged lines; each may have been an audit of any level.

    Parameters
    ----------
    total : int
        Since the last reset of all levels.
    before : dict from (model, group, risk) to int
        How many of them came before the last reset of just these levels.
    """

    total: int = 0
    before: dict[tuple[str | None, str | None, float | None], int] = field(default_factory=dict)

    def reset(self, reset: Reset) -> None:
        """Take note of a reset."""
        name = reset.model, reset.group, reset.risk
        if name == (None, None, None):
            self.total, self.before = 0, {}
        elif self.total:
            self.before[name] = self.total

    def of(self, key: LevelKey) -> int:
        """Return how many count for a level."""
        return self.total - max((n for name, n in self.before.items() if key.within(Reset(*name))), default=0)

    def to_json(self) -> list[Any]:
        """Return what came before resets as plain data."""
        return [[*name, count] for name, count in self.before.items()]

    @classmethod
    def from_json(cls, total: int, before: Sequence[Any]) -> Self:
        """Restore a state."""
        return cls(total, {(model, group, risk): count for model, group, risk, count in before})
