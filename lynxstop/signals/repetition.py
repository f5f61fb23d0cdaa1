"""Repetition loops: how often the last tokens have repeated the ones before them."""

from __future__ import annotations

from collections import deque

from lynxstop.core.statistics import Statistics
from lynxstop.signals.base import Plain


class Loop(Plain):
    """Most repetitions, over all periods up to a limit, of the period that the stream now ends on.

    With run_p the number of last tokens that equal the token p places before them, the value is the maximum
    over p of run_p / p: 0 without repetition, 1 when a passage occurs twice in a row, 2 for three times.

    Parameters
    ----------
    longest : int
        Longest period, in tokens: the size of the state.

    Examples
    --------
    >>> loop, unknown = Loop(), Statistics(*[float("nan")] * 4)
    >>> for token in (1, 2, 3, 1, 2, 3):
    ...     loop.step(token, unknown)
    >>> loop.value()
    1.0
    """

    def __init__(self, longest: int = 64) -> None:
        self._longest = longest
        self._last: deque[int] = deque(maxlen=longest)
        self._places: dict[int, deque[int]] = {}
        self._runs: dict[int, int] = {}
        self._count = 0

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token; the run of period p grows if the same token occurred p tokens before."""
        here, runs = self._count, self._runs
        places = self._places.get(token, ())
        self._runs = {here - place: runs.get(here - place, 0) + 1 for place in places}
        if len(self._last) == self._longest:
            oldest = self._last[0]
            self._places[oldest].popleft()
            if not self._places[oldest]:
                del self._places[oldest]
        self._last.append(token)
        self._places.setdefault(token, deque()).append(here)
        self._count += 1

    def value(self) -> float:
        """Return the number of repetitions."""
        return max((run / period for period, run in self._runs.items()), default=0.0)
