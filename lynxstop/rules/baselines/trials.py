"""DEER, and rules on trial answers that stop changing: Dynasor and answer convergence."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lynxstop.rules.base import Point, Rule, Score

_HEDGES = re.compile(r"\b(?:wait|hold|but|okay|no|hmm)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Deer(Rule):
    """Geometric mean token probability of a trial answer exceeds 0.95; at most ten trials (2504.15895)."""

    name = "deer"
    paper = "2504.15895"
    uses = frozenset({"trial"})
    tau: float = 0.95
    trials: int = 10

    @property
    def published(self) -> float:
        """Tau."""
        return self.tau

    def start(self) -> Score:
        """Begin a request."""
        taken = 0

        def score(point: Point) -> float:
            nonlocal taken
            taken += 1
            return point.trial().confidence if taken <= self.trials else math.nan

        return score


@dataclass(frozen=True)
class Convergence(Rule):
    """Ten equal trial answers in a row (2506.02536); the score is the length of the run."""

    name = "convergence"
    paper = "2506.02536"
    uses = frozenset({"trial"})
    equal: int = 10

    @property
    def published(self) -> float:
        """Exit iff the run exceeds k - 1."""
        return self.equal - 1.0

    def start(self) -> Score:
        """Begin a request."""
        run, before = 0, ""

        def score(point: Point) -> float:
            nonlocal run, before
            answer = point.trial().answer
            run = (run + 1 if answer == before else 1) if answer else 0
            before = answer
            return float(run)

        return score


@dataclass(frozen=True)
class Dynasor(Rule):
    """The last N trial answers, one each 64 tokens, are equal and none hedges (Certaindex, 2412.20993).

    Its stated rule: the published check also passes when the answers differ, and takes "know" for "no".
    Between decision points a trial waits for the next one. The score is the run length; N is 2 to 8 in its
    code, 4 here.
    """

    name = "dynasor"
    paper = "2412.20993"
    uses = frozenset({"trial"})
    every: int = 64
    equal: int = 4

    @property
    def published(self) -> float:
        """Exit iff the run exceeds N - 1."""
        return self.equal - 1.0

    def start(self) -> Score:
        """Begin a request."""
        run, before, last = 0, "", 0

        def score(point: Point) -> float:
            nonlocal run, before, last
            if point.position - last < self.every:
                return math.nan
            last = point.position
            trial = point.trial()
            answer = "" if _HEDGES.search(trial.text) else trial.answer
            run = (run + 1 if answer == before else 1) if answer else 0
            before = answer
            return float(run)

        return score
