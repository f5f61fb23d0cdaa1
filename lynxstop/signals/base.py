"""The interface of a signal: a number about the thinking so far, updated per token in O(1)."""

from __future__ import annotations

from typing import Protocol

from lynxstop.core.statistics import Statistics


class Signal(Protocol):
    """The state of one signal in one request.

    It may have a method `steps` too: the same as `step` for each of several tokens in a row, one or more, and
    their statistics.
    """

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
