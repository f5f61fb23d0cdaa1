"""The state of a rule within one request, and the statistics it reads."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class Statistics(NamedTuple):
    """What an engine knows after one generated token; all in nats, NaN where unknown.

    `entropy`, `top_gap` (first minus second log-probability) and `end_margin` (first minus that of the first
    exit token) describe the distribution of the *next* token; `logprob` is the token's own log-probability.
    """

    entropy: float
    top_gap: float
    end_margin: float
    logprob: float


class RequestScorer(Protocol):
    """The state of a rule in one request; every method takes O(1) time."""

    def step(self, token: int, statistics: Any) -> None:
        """Read one thinking token, and its `Statistics` or what they will be made of."""

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
