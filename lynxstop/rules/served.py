"""A rule as a session runs it: signals, probe and score in one place, the same in replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lynxstop.core.statistics import Statistics
from lynxstop.errors import ConfigError
from lynxstop.rules.base import Point, Rule
from lynxstop.signals.panel import Panel


class RuleScorer(NamedTuple):
    """A `lynxstop.core.scorer.ScorerFactory` of a rule; make it with `serve`."""

    rule: Rule

    @property
    def statistics(self) -> bool:
        """Whether it needs statistics at every thinking token."""
        return "statistics" in self.rule.needs

    @property
    def hidden(self) -> bool:
        """Whether it needs the probe's logit."""
        return "hidden" in self.rule.needs

    def start(self) -> _Scorer:
        """Begin a request."""
        return _Scorer(self.rule)


def serve(rule: Rule) -> RuleScorer:
    """Prepare a rule for serving.

    Raises
    ------
    ConfigError
        When it needs trial answers, which are not taken while a request runs.
    """
    if "trial" in rule.needs:
        raise ConfigError(
            f"The rule {rule.name!r} needs trial answers and is not served; it can be replayed.",
            hint="Serve one that needs none, such as lynx or combined.",
        )
    return RuleScorer(rule)


def check_scores(served: RuleScorer) -> None:
    """Score two points, so that what is wrong with a rule's constants shows before any request.

    Raises
    ------
    ConfigError
        When it cannot score.
    StepError
        When it has not been fitted.
    """
    try:
        scorer = served.start()
        for _ in range(2):
            scorer.step(0, Statistics(1.0, 1.0, 1.0, -1.0))
            scorer.cue(0)
            float(scorer.score(scorer.snapshot(0.0)))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"The constants of the rule {served.rule.name!r} are damaged: it cannot score.",
            hint="Train it again, or copy the bundle again.",
        ) from error


class _Scorer:
    __slots__ = ("_panel", "_position", "_score")

    def __init__(self, rule: Rule) -> None:
        self._panel = Panel(rule.signals)
        self._score = rule.start()
        self._position = 0

    def step(self, token: int, statistics: Statistics) -> None:
        self._position += 1
        self._panel.step(token, statistics)

    def steps(self, tokens: Sequence[int], statistics: Sequence[Statistics]) -> None:
        self._position += len(tokens)
        self._panel.steps(tokens, statistics)

    def cue(self, ago: int) -> None:
        self._panel.cue(ago)

    def snapshot(self, logit: float) -> Point:
        return Point(self._panel.values(), logit, self._position)

    def score(self, seen: Point) -> float:
        return self._score(seen)
