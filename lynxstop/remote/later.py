"""A rule that is asked once in a while: what it reads at every token is made out of many tokens at a time.

Parsing a server's log-probabilities and computing statistics from them costs far less in one go, and the
results are the same. A rule hears of all tokens, in order, before it says anything.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from lynxstop.core.scorer import RequestScorer, ScorerFactory
from lynxstop.remote.tokens import Seen, behind

MOST = 64
"""Tokens that wait at most: what a decision has to catch up with."""


class Later(NamedTuple):
    """A `ScorerFactory` whose scorers read `Seen` in place of `Statistics`.

    Parameters
    ----------
    rule : ScorerFactory
    exits : frozenset of str
        See `lynxstop.remote.tokens.behind`.
    keep : bool
        Whether tokens that have been read keep their log-probabilities.
    """

    rule: ScorerFactory
    exits: frozenset[str]
    keep: bool = True

    @property
    def statistics(self) -> bool:
        """Whether its scorers need something at every thinking token."""
        return self.rule.statistics

    @property
    def hidden(self) -> bool:
        """Whether its scorers need the probe's logit."""
        return self.rule.hidden

    def start(self) -> RequestScorer:
        """Begin a request."""
        return _Judge(self.rule.start(), self.exits, self.keep)


class _Judge:
    __slots__ = ("_exits", "_keep", "_numbers", "_scorer", "_seen")

    def __init__(self, scorer: RequestScorer, exits: frozenset[str], keep: bool) -> None:
        self._scorer, self._exits, self._keep = scorer, exits, keep
        self._numbers: list[int] = []
        self._seen: list[Seen] = []

    def step(self, token: int, statistics: Seen) -> None:
        self._numbers.append(token)
        self._seen.append(statistics)
        if len(self._seen) >= MOST:
            self._catch_up()

    def cue(self, behind: int) -> None:
        self._catch_up()
        self._scorer.cue(behind)

    def snapshot(self, logit: float) -> Any:
        self._catch_up()
        return self._scorer.snapshot(logit)

    def score(self, seen: Any) -> float:
        return self._scorer.score(seen)

    def _catch_up(self) -> None:
        numbers, seen = self._numbers, self._seen
        if not seen:
            return
        self._numbers, self._seen = [], []
        for number, known in zip(numbers, behind(seen, self._exits), strict=True):
            self._scorer.step(number, known)
        if not self._keep:
            for token, _ in seen:
                token.forget()
