"""Several signals over the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from lynxstop.core.statistics import Statistics
from lynxstop.signals.table import signal


class Panel:
    """Fresh signals by key, for one request.

    Parameters
    ----------
    keys : iterable of str
        See `lynxstop.signals.table.signal`.
    """

    __slots__ = ("_many", "_signals", "_steps")

    def __init__(self, keys: Iterable[str]) -> None:
        self._signals = {key: signal(key) for key in keys}
        self._steps = tuple(one.step for one in self._signals.values())
        self._many = tuple(
            getattr(one, "steps", None) or partial(_each, one.step) for one in self._signals.values()
        )

    def step(self, token: int, statistics: Statistics) -> None:
        """Pass one thinking token to all signals."""
        for step in self._steps:
            step(token, statistics)

    def steps(self, tokens: Sequence[int], statistics: Sequence[Statistics]) -> None:
        """Pass thinking tokens in a row to all signals."""
        for steps in self._many:
            steps(tokens, statistics)

    def cue(self, ago: int) -> None:
        """Pass a cue to all signals."""
        for one in self._signals.values():
            one.cue(ago)

    def values(self) -> dict[str, float]:
        """Return all values at the last token."""
        return {key: one.value() for key, one in self._signals.items()}


def _each(
    step: Callable[[int, Statistics], None], tokens: Sequence[int], statistics: Sequence[Statistics]
) -> None:
    for token, known in zip(tokens, statistics, strict=True):
        step(token, known)
