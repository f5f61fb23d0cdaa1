"""The state of a rule within one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class RequestScorer(Protocol):
    """The state of a rule in one request; every method takes O(1) time per token."""

    def step(self, token: int, statistics: Any) -> None:
        """Read one thinking token.

        `statistics` are its `lynxstop.core.statistics.Statistics`, or what they will be computed from.
        """

    def steps(self, tokens: Sequence[int], statistics: Sequence[Any]) -> None:
        """Read thinking tokens in a row: the same as `step` for each."""

    def cue(self, ago: int) -> None:
        """Note that a cue was completed `ago` (0 or 1) tokens before the last one."""

    def snapshot(self, logit: float) -> Any:
        """Snapshot what is known at the current token and the probe's logit; the state does not change."""

    def score(self, seen: Any) -> float:
        """Score a decision point from what `snapshot` returned; higher exits, NaN never does."""


class ScorerFactory(Protocol):
    """A rule as a policy holds it."""

    @property
    def statistics(self) -> bool:
        """Whether its scorers need `Statistics` at every thinking token."""

    @property
    def hidden(self) -> bool:
        """Whether its scorers need the probe's logit."""

    def start(self) -> RequestScorer:
        """Begin a request."""
