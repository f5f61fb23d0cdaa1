"""The interface of a signal: a number about the thinking so far, updated per token in O(1)."""

from __future__ import annotations

from typing import Protocol

from lynxstop.core.statistics import Statistics


class Signal(Protocol):
    """The state of one signal in one request."""

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token and its statistics."""

    def cue(self, ago: int) -> None:
        """Start a new step: a cue was completed `ago` (0 or 1) tokens before the last one."""

    def value(self) -> float:
        """Return the signal at the last token; NaN while it is not defined."""


class Plain:
    """Base of signals that ignore cues."""

    def cue(self, ago: int) -> None:
        """Change nothing."""
