"""Recorded traces as a table: losses, unknowns and guards."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lynxstop.core.policy import StopPolicy
from lynxstop.errors import ConfigError, DataError
from lynxstop.recordings.storage import Recording
from lynxstop.replay.recorded import from_recorded

TRACES: dict[str, list[Any]] = {
    "trace_id": ["t0", "t1", "t2", "t3"],
    "problem_id": ["p0", "p1", "p2", "p3"],
    "family": ["sum", "sum", "path", "path"],
    "split": ["calibration", "calibration", "test", "calibration"],
    "thinking_tokens": [100, 100, 20, 100],
    "full_status": ["parsed", "parsed", "parsed", "unparsed"],
    "full_right": [True, False, True, None],
    "cues": [3, 2, 0, 2],
}
CUES: dict[str, list[Any]] = {
    "position": [10, 20, 50, 10, 60, 30, 60],
    "thinking_at_exit": [11, 21, 51, 11, 61, 31, 61],
    "trial_status": ["parsed", "parsed", "timeout", "parsed", "parsed", "parsed", "unparsed"],
    "right": [False, True, None, False, True, True, None],
    "agrees": [False, True, False, True, False, False, False],
}


class Data(Recording):
    """A recorded data set in memory."""

    whole = True

    def __init__(self) -> None:
        self.meta: Any = object()  # recorded without guards

    def traces(self, columns: Sequence[str] | None = None) -> Any:
        return pa.table(TRACES)

    def cues(self, columns: Sequence[str] | None = None) -> Any:
        return pa.table(CUES)


SCORES = np.arange(7, dtype=np.float32)
NAN = np.nan


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # a time-out is unknown, and so is every cue of a trace whose full answer was not parsed
        ("disagree", [1, 0, NAN, 0, 1, NAN, NAN]),
        ("wrong", [1, 0, NAN, 1, 0, 0, NAN]),
        ("wrong|exit", [1, 0, NAN, 1, 0, 0, NAN]),
        # no harm where the exit is right or the full answer is wrong
        ("harm", [1, 0, NAN, 0, 0, 0, NAN]),
    ],
)
def test_losses(loss, expected):
    table = from_recorded(Data(), SCORES, loss=loss)
    assert np.array_equal(table.losses, expected, equal_nan=True)
    assert table.lengths.tolist() == [3, 2, 0, 2]
    assert table.tokens is not None
    assert table.full_tokens is not None
    assert (table.tokens.tolist(), table.full_tokens.tolist()) == (
        CUES["thinking_at_exit"],
        TRACES["thinking_tokens"],
    )


def test_guards_decide_which_cues_may_exit():
    # given at least 15 tokens, then 40 between two cues
    table = from_recorded(Data(), SCORES, guards=StopPolicy(exit_ids=(1,), min_tokens=15, cooldown=40))
    assert table.lengths.tolist() == [1, 1, 0, 1]
    assert table.scores.tolist() == [1, 4, 5]


def test_every_trace_begins_its_guards_anew():
    # given the same cues, and no trace without any between the last two
    class Beside(Data):
        def traces(self, columns: Sequence[str] | None = None) -> Any:
            return pa.table(TRACES | {"cues": [3, 2, 2, 0], "thinking_tokens": [100] * 4})

    table = from_recorded(Beside(), SCORES, guards=StopPolicy(exit_ids=(1,), min_tokens=15, cooldown=40))
    assert table.lengths.tolist() == [1, 1, 1, 0]
    assert table.scores.tolist() == [1, 4, 5]


def test_a_rule_that_abstains_leaves_its_points_out():
    scores = np.where(np.arange(7) % 2, SCORES, np.nan).astype(np.float32)
    table = from_recorded(Data(), scores, abstains=True)
    assert (table.scores.tolist(), table.lengths.tolist()) == ([1, 3, 5], [1, 1, 0, 1])
    with pytest.raises(DataError, match="NaN"):
        from_recorded(Data(), scores)


def test_a_split_and_a_group():
    table = from_recorded(Data(), SCORES, split="calibration", by="family")
    assert table.groups is not None
    assert (table.trace_ids.tolist(), table.groups.tolist()) == (["t0", "t1", "t3"], ["sum", "sum", "path"])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"loss": "regret"}, ConfigError),
        ({"by": "tenant"}, DataError),
        ({"split": "train"}, DataError),
        ({"scores": SCORES[1:]}, DataError),
        ({"scores": np.full(7, np.nan, np.float32)}, DataError),
    ],
)
def test_what_does_not_fit_is_refused(options, error):
    with pytest.raises(error):
        from_recorded(Data(), **{"scores": SCORES, **options})


def test_cues_without_a_forced_exit_are_refused():
    class Part(Data):
        whole = False

    with pytest.raises(DataError, match="without their forced exit"):
        from_recorded(Part(), SCORES)
