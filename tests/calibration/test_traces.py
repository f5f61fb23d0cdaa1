"""Tables of traces: what they refuse, and what identifies them."""

from typing import Any

import numpy as np
import pytest

from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.units import as_units
from lynxstop.errors import DataError

GOOD: dict[str, Any] = {
    "problem_ids": ["a", "b", "c"],
    "lengths": [2, 0, 1],
    "scores": [0.5, 1.5, -1.0],
    "losses": [0, 1, np.nan],
    "tokens": [10, 20, 5],
    "full_tokens": [30, 40, 5],
}


def test_traces_without_cues_stay():
    table = TraceTable.from_arrays(**GOOD)
    assert (table.traces, table.lengths.tolist(), table.unknown) == (3, [2, 0, 1], 1)
    assert table.maxima().tolist() == [1.5, -np.inf, -1.0]


def test_ids_and_groups_that_are_numbers_become_text():
    numbers: dict[str, Any] = {"problem_ids": [3, 4, 5], "trace_ids": [0, 1, 2], "groups": [7, 7, 8]}
    table = TraceTable.from_arrays(**{**GOOD, **numbers})
    assert table.groups is not None
    names = (table.problem_ids.tolist(), table.trace_ids.tolist(), table.groups.tolist())
    assert names == (["3", "4", "5"], ["0", "1", "2"], ["7", "7", "8"])


def test_only_traces_without_cues_are_a_table_too():
    table = TraceTable.from_arrays(problem_ids=["a", "b"], lengths=[0, 0], scores=[], losses=[])
    assert (table.traces, len(table.scores)) == (2, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.5, np.nan, 1.0]}, "trace 'a' is NaN"),
        ({"scores": [0.5, 1.0, np.inf]}, "trace 'c' is NaN, infinite"),
        ({"scores": [0.5, 1.0, 1e300]}, "beyond float32"),
        ({"losses": [0, 1, 2]}, "outside"),
        ({"losses": [0, 1, -0.1]}, "outside"),
        ({"losses": [0, 1]}, "3 scores but 2 losses"),
        ({"lengths": [2, 0, 2]}, "do not describe the same traces"),
        ({"lengths": [3, -1, 1]}, "do not describe the same traces"),
        ({"problem_ids": ["a", "b"]}, "do not describe the same traces"),
        ({"problem_ids": ["a", "b", ""]}, "is empty"),
        ({"trace_ids": ["x", "y", "x"]}, "'x' occurs 2 times"),
        ({"problem_ids": ["a", "b", "a"]}, "'a' occurs 2 times"),
        ({"tokens": None}, "Only one of the two token columns"),
        ({"tokens": [10, 20]}, "do not match"),
        ({"tokens": [10, 31, 5]}, "after the end"),
        ({"groups": ["x", "", "y"]}, "no group"),
    ],
)
def test_bad_input_is_one_clear_error(change, message):
    with pytest.raises(DataError, match=message):
        TraceTable.from_arrays(**{**GOOD, **change})


def test_no_traces_are_refused():
    with pytest.raises(DataError, match="no trace"):
        TraceTable.from_arrays(problem_ids=[], lengths=[], scores=[], losses=[])


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [0.5, 1.5, -1.0000001]},
        {"losses": [0, 1, 1]},
        {"losses": [0, np.nan, np.nan]},
        {"problem_ids": ["a", "b", "d"]},
        {"lengths": [1, 1, 1]},
        {"tokens": [11, 20, 5]},
        {"groups": ["x", "x", "y"]},
        {"trace_ids": ["a", "b", "d"]},
    ],
)
def test_digest_sees_every_change(change):
    assert TraceTable.from_arrays(**{**GOOD, **change}).digest() != TraceTable.from_arrays(**GOOD).digest()


def test_digest_sees_where_an_id_ends():
    one, other = (
        TraceTable.from_arrays(problem_ids=ids, lengths=[1, 1], scores=[0, 1], losses=[0, 1])
        for ids in (["a", "bc"], ["ab", "c"])
    )
    assert one.digest() != other.digest()


def test_one_sample_per_problem_is_drawn_by_seed():
    # given 50 problems with 1 to 4 samples
    counts = np.arange(50) % 4 + 1
    table = TraceTable.from_arrays(
        trace_ids=[f"t{i:03d}" for i in range(counts.sum())],
        problem_ids=np.repeat([f"p{i:02d}" for i in range(50)], counts),
        lengths=np.ones(counts.sum(), int),
        scores=np.arange(counts.sum()),
        losses=np.zeros(counts.sum()),
    )
    drawn = [as_units(table, "one", seed, "problem").table for seed in (0, 0, 1)]
    # then every problem has one, the same by the same seed
    assert all(len(set(part.problem_ids)) == part.traces == 50 for part in drawn)
    assert drawn[0].digest() == drawn[1].digest() != drawn[2].digest()
    # and every sample has its chance
    seen = set().union(*(as_units(table, "one", seed).table.trace_ids for seed in range(60)))
    assert len(seen) == table.traces


def test_means_weigh_problems_equally():
    table = TraceTable.from_arrays(
        trace_ids=["a1", "a2", "b1"],
        problem_ids=["a", "a", "b"],
        lengths=[1, 1, 1],
        scores=[0, 0, 0],
        losses=[1, 0, 1],
    )
    units = as_units(table, "mean", 0)
    assert (units.count, units.weights.tolist()) == (2, [0.5, 0.5, 1.0])
