"""Outcomes add up."""

import pytest

from lynxstop.errors import DataError
from lynxstop.replay.outcome import Outcome, summarize


def outcome(**changes: object) -> Outcome:
    base = Outcome("p", True, True, False, False, 100, 100, 40)
    return base._replace(**changes)


def test_a_summary_counts_every_kind() -> None:
    # given one untouched request, a harmless exit, a harmful one, a helpful one, and one without gold
    outcomes = [
        outcome(),
        outcome(exited=True, tokens_early=50),
        outcome(exited=True, tokens_early=50, right_early=False, disagree=True),
        outcome(exited=True, tokens_early=50, right_full=False, disagree=True),
        outcome(exited=True, tokens_early=50, right_full=None, right_early=None, disagree=True),
    ]

    found = summarize(outcomes)

    assert (found.n_problems, found.exits, found.disagree) == (5, 4, 3)
    assert (found.harm, found.help, found.ungraded) == (1, 1, 1)
    assert (found.accuracy_full, found.accuracy_early) == (0.75, 0.75)
    assert (found.thinking_tokens_full, found.thinking_tokens_early) == (500, 300)
    assert found.saved == pytest.approx(0.4)
    assert found.oracle_saved == pytest.approx(0.6)
    assert found.share_of_oracle == pytest.approx(2 / 3)


def test_accuracy_lost_is_harm_minus_help() -> None:
    outcomes = [outcome(right_early=False), outcome(right_full=False), outcome(right_early=False), outcome()]

    found = summarize(outcomes)

    assert found.accuracy_full is not None
    assert found.accuracy_early is not None
    assert found.accuracy_full - found.accuracy_early == pytest.approx((found.harm - found.help) / 4)


def test_without_gold_there_is_no_accuracy() -> None:
    found = summarize([outcome(right_full=None, right_early=None)])

    assert found.accuracy_full is None
    assert found.accuracy_early is None


def test_nothing_to_summarise_is_an_error() -> None:
    with pytest.raises(DataError):
        summarize([])
