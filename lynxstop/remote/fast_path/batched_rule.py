"""Evaluate a rule in batches: its inputs are computed for up to 64 tokens at once, or when a decision is due.

Parsing log-probabilities and computing statistics costs far less for many tokens together, with the same
results. The rule reads all tokens, in order, before it scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lynxstop.core.scorer import RequestScorer, ScorerFactory
from lynxstop.remote.tokens import TokenPair, statistics_of_top_k

BATCH = 64
"""Most tokens that wait: a decision has to parse them first."""


class BatchedRule(NamedTuple):
    """A `ScorerFactory` whose scorers read `TokenPair` in place of `Statistics`.

    Parameters
    ----------
    rule : ScorerFactory
    exits : frozenset of str
        See `lynxstop.remote.tokens.statistics_of_top_k`.
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
        return _BatchedScorer(self.rule.start(), self.exits, self.keep)


class _BatchedScorer:
    __slots__ = ("_exits", "_keep", "_numbers", "_pairs", "_scorer")

    def __init__(self, scorer: RequestScorer, exits: frozenset[str], keep: bool) -> None:
        self._scorer, self._exits, self._keep = scorer, exits, keep
        self._numbers: list[int] = []
        self._pairs: list[TokenPair] = []

    def step(self, token: int, statistics: TokenPair) -> None:
        self._numbers.append(token)
        self._pairs.append(statistics)
        if len(self._pairs) >= BATCH:
            self._drain()

    def steps(self, tokens: Sequence[int], statistics: Sequence[TokenPair]) -> None:
        for token, pair in zip(tokens, statistics, strict=True):
            self.step(token, pair)

    def cue(self, ago: int) -> None:
        self._drain()
        self._scorer.cue(ago)

    def snapshot(self, logit: float) -> Any:
        self._drain()
        return self._scorer.snapshot(logit)

    def score(self, seen: Any) -> float:
        return self._scorer.score(seen)

    def _drain(self) -> None:
        numbers, pairs = self._numbers, self._pairs
        if not pairs:
            return
        self._numbers, self._pairs = [], []
        self._scorer.steps(numbers, statistics_of_top_k(pairs, self._exits))
        if not self._keep:
            for token, _ in pairs:
                token.forget()
