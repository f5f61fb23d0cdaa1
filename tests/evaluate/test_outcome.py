"""Outcomes add up."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from lynxstop.errors import DataError
from lynxstop.replay.outcomes import Outcomes, summarize

DEFAULTS = {
    "exits": False, "full": 100, "gross": 100, "net": 100, "oracle": 40, "disagree": False,
    "right_full": 1, "right_early": 1, "trials": 0,
}  # fmt: skip


def outcomes(*requests: Mapping[str, float]) -> Outcomes:
    """One request per dictionary, which says what differs from an untouched right one."""
    rows = [{**DEFAULTS, **request} for request in requests]
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows], np.float64) for name in DEFAULTS}
    columns |= {name: columns[name] == 1 for name in ("exits", "disagree")}
    return Outcomes(**columns)


def test_a_summary_counts_every_kind() -> None:
    # given one untouched request, a harmless exit, a harmful one, a helpful one, and one without gold
    early = {"exits": True, "gross": 50}
    found = summarize(
        outcomes(
            {},
            early,
            early | {"right_early": 0, "disagree": True},
            early | {"right_full": 0, "disagree": True},
            early | {"right_full": math.nan, "right_early": math.nan, "disagree": True},
        )
    )

    assert (found.n_problems, found.exits, found.disagree) == (5, 4, 3)
    assert (found.harm, found.help, found.ungraded) == (1, 1, 1)
    assert (found.accuracy_full, found.accuracy_early) == (0.75, 0.75)
    assert (found.thinking_tokens_full, found.thinking_tokens_early) == (500, 300)
    assert found.saved == pytest.approx(0.4)
    assert found.oracle_saved == pytest.approx(0.6)
    assert found.share_of_oracle == pytest.approx(2 / 3)


def test_accuracy_lost_is_harm_minus_help() -> None:
    found = summarize(outcomes({"right_early": 0}, {"right_full": 0}, {"right_early": 0}, {}))

    assert found.accuracy_full is not None
    assert found.accuracy_early is not None
    assert found.accuracy_full - found.accuracy_early == pytest.approx((found.harm - found.help) / 4)


def test_without_gold_there_is_no_accuracy() -> None:
    found = summarize(outcomes({"right_full": math.nan, "right_early": math.nan}))

    assert found.accuracy_full is None
    assert found.accuracy_early is None


def test_nothing_to_summarise_is_an_error() -> None:
    with pytest.raises(DataError):
        summarize(outcomes())
