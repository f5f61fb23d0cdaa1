"""What a signal is: a number about the thinking so far, kept up to date token by token in O(1)."""

from __future__ import annotations

from typing import Protocol

from lynxstop.core.statistics import Statistics


class Signal(Protocol):
    """The state of one signal in one request."""

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token and what is known behind it."""

    def cue(self, behind: int) -> None:
        """Hear that a cue was completed `behind` (0 or 1) tokens before the last one: a new step begins."""

    def value(self) -> float:
        """Return the signal at the last token; NaN while it is not defined."""


class Plain:
    """Base of signals that cues mean nothing to."""

    def cue(self, behind: int) -> None:
        """Change nothing."""
