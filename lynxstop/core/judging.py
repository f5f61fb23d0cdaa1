"""What a session asks of a rule that looks at more than one logit per decision point."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class Statistics(NamedTuple):
    """What an engine knows behind one generated token; all in nats, NaN where unknown.

    `entropy`, `top_gap` (first minus second log-probability) and `end_margin` (first minus that of the first
    exit token) describe the distribution of the *next* token; `logprob` is the token's own log-probability.
    """

    entropy: float
    top_gap: float
    end_margin: float
    logprob: float


class Judge(Protocol):
    """The state of a rule in one request; every method takes O(1) time."""

    def step(self, token: int, statistics: Any) -> None:
        """Read one thinking token, and its `Statistics` or what they will be made of."""

    def cue(self, behind: int) -> None:
        """Hear that a cue was completed `behind` (0 or 1) tokens before the last one."""

    def look(self, logit: float) -> Any:
        """Keep what is known at the last token, with the probe's logit there; changes nothing."""

    def score(self, seen: Any) -> float:
        """Score a decision point from what `look` kept; higher exits, NaN never does."""


class JudgeFactory(Protocol):
    """A rule as a policy holds it."""

    @property
    def statistics(self) -> bool:
        """Whether its judges need `Statistics` at every thinking token."""

    @property
    def hidden(self) -> bool:
        """Whether its judges need the probe's logit."""

    def start(self) -> Judge:
        """Begin a request."""
