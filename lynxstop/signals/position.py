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
        self._counts = {"tokens": 0, "step": 0, "cues": 0}

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token."""
        self.steps((token,), (statistics,))

    def steps(self, tokens: Sequence[int], statistics: Sequence[Statistics]) -> None:
        """Read thinking tokens in a row."""
        self._counts["tokens"] += len(tokens)
        self._counts["step"] += len(tokens)

    def cue(self, ago: int) -> None:
        """Count a cue."""
        self._counts["cues"] += 1
        self._counts["step"] = ago

    def value(self) -> float:
        """Return the count."""
        return float(self._counts[self._of])
