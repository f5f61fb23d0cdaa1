"""Outcomes of requests under full thinking and early exit, and their summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lynxstop.errors import DataError


class Outcome(NamedTuple):
    """One request, run both ways.

    `right_*` is None where there is no gold answer or grading ended without a verdict. `disagree` says that
    the two answers differ (an unparsed answer differs from every other); without an exit the two are one and
    it is False. `oracle_tokens` are the thinking tokens at the first cue whose exit answer agrees with the
    full one, or at the end.
    """

    problem_id: str
    right_full: bool | None
    right_early: bool | None
    disagree: bool
    exited: bool
    tokens_full: int
    tokens_early: int
    oracle_tokens: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and shares over a set of outcomes; accuracies are None without gold answers."""

    n_problems: int
    accuracy_full: float | None
    accuracy_early: float | None
    thinking_tokens_full: int
    thinking_tokens_early: int
    saved: float
    """Share of the thinking tokens saved."""
    oracle_saved: float
    """Share that the oracle saves: exit at the first cue whose answer agrees."""
    exits: int
    disagree: int
    harm: int
    help: int
    ungraded: int

    @property
    def share_of_oracle(self) -> float:
        """Saved tokens as a share of what the oracle saves."""
        return self.saved / self.oracle_saved if self.oracle_saved else 0.0


def summarize(outcomes: Sequence[Outcome]) -> Summary:
    """Summarise outcomes.

    Raises
    ------
    DataError
        When there are none.
    """
    if not outcomes:
        raise DataError("There are no requests to summarise.")
    graded = [o for o in outcomes if o.right_full is not None and o.right_early is not None]
    full = int(np.sum([o.tokens_full for o in outcomes]))
    early = int(np.sum([o.tokens_early for o in outcomes]))
    oracle = int(np.sum([o.oracle_tokens for o in outcomes]))
    return Summary(
        n_problems=len(outcomes),
        accuracy_full=float(np.mean([bool(o.right_full) for o in graded])) if graded else None,
        accuracy_early=float(np.mean([bool(o.right_early) for o in graded])) if graded else None,
        thinking_tokens_full=full,
        thinking_tokens_early=early,
        saved=1 - early / full if full else 0.0,
        oracle_saved=1 - oracle / full if full else 0.0,
        exits=sum(o.exited for o in outcomes),
        disagree=sum(o.disagree for o in outcomes),
        harm=sum(bool(o.right_full) and not o.right_early for o in graded),
        help=sum(bool(o.right_early) and not o.right_full for o in graded),
        ungraded=len(outcomes) - len(graded),
    )
