"""Progress of a request: thinking tokens, cues, and the length of the current step."""

from __future__ import annotations

from collections.abc import Sequence

from lynxstop.core.statistics import Statistics


class Position:
    """Count of thinking tokens so far, of those since the last cue, or of cues.

    Parameters
    ----------
    of : {"tokens", "step", "cues"}
    """

    def __init__(self, of: str = "tokens") -> None:
        self._of = of
        self._tokens = self._cues = self._begun = 0

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token."""
        self._tokens += 1

    def steps(self, tokens: Sequence[int], statistics: Sequence[Statistics]) -> None:
        """Read thinking tokens in a row."""
        self._tokens += len(tokens)

    def cue(self, ago: int) -> None:
        """Count a cue."""
        self._cues += 1
        self._begun = self._tokens - ago

    def value(self) -> float:
        """Return the count."""
        counts = {"tokens": self._tokens, "step": self._tokens - self._begun, "cues": self._cues}
        return float(counts[self._of])
