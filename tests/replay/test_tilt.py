"""Tilts are chosen on the training split, and applied as a session does."""

import math

import numpy as np
import pytest

from lynxstop.calibration.losses import LOSSES
from lynxstop.replay.exits import ExitTable
from lynxstop.replay.tilt import TILTS, choose_tilt, lowered

LOSS = LOSSES["disagree"]


def exits(agrees, traces, cues):
    """Traces of equally many cues, 10 tokens apart."""
    owners = np.repeat(np.arange(traces), cues)
    ids = np.array([f"t{i:05d}" for i in range(traces)])
    return ExitTable(
        trace_ids=ids, problem_ids=ids, full_tokens=np.full(traces, 10 * cues + 10),
        full_right=np.ones(traces), full_parsed=np.ones(traces, bool), owners=owners,
        tokens=np.tile(10 * np.arange(1, cues + 1), traces), agrees=agrees.astype(float),
        right=agrees.astype(float), parsed=np.ones(len(owners), bool), cue=np.ones(len(owners), bool),
        rows=np.arange(len(owners)),
    )  # fmt: skip


def drawn(useful):
    """Scores that know nothing beside the outcome; late cues are as risky as early ones, and save less."""
    rng = np.random.default_rng(1)
    traces, cues = 2000, 6
    hard = np.repeat(rng.random(traces) < 0.5, cues)
    agrees = rng.random(traces * cues) < np.where(hard, 0.55, 0.99)
    scores = np.where(agrees, 1.5, -1.5) + rng.normal(0, 1.0, traces * cues)
    if not useful:  # early cues have scores that are too high, so that a tilt makes it worse
        scores = scores - 2.0 * (np.tile(np.arange(cues), traces) > 0) * ~agrees
        scores = scores + 3.0 * (np.tile(np.arange(cues), traces) == 0) * ~agrees
    return scores.astype(np.float32), exits(agrees, traces, cues)


def test_a_tilt_is_chosen_where_late_exits_save_little():
    scores, table = drawn(useful=True)
    assert choose_tilt(scores, table, LOSS) > 0


def test_none_is_chosen_where_it_saves_nothing():
    scores, table = drawn(useful=False)
    assert choose_tilt(scores, table, LOSS) == 0.0


def test_few_traces_and_unknown_scores_leave_scores_as_they_are():
    scores, table = drawn(useful=True)
    few = table.select(np.arange(2000) < 99)
    assert choose_tilt(scores, few, LOSS) == 0.0
    assert choose_tilt(np.full_like(scores, math.nan), table, LOSS) == 0.0
    assert choose_tilt(np.ones_like(scores), table, LOSS) == 0.0


def test_only_eligible_points_are_lowered():
    # given a cue table whose middle row is not eligible
    table = exits(np.array([1, 1, 1]), 1, 3).select(np.array([True]))
    table = ExitTable(**{**vars(table), "rows": np.array([0, 2, 4])})
    made = lowered(np.array([5, 5, 5, 5, np.nan], np.float32), table, 0.5)
    assert made.tolist() == [5.0, 5.0, 4.5, 5.0, pytest.approx(math.nan, nan_ok=True)]
    assert TILTS[0] == 0.0
