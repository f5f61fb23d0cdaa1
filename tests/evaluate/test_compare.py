"""Rules on the same traces: splits, costs, certificates and what is written."""

import csv
import io
import json
import math

import numpy as np
import pytest

from lynxstop.core.points import points_named
from lynxstop.core.policy import StopPolicy
from lynxstop.errors import ConfigError, DataError
from lynxstop.evaluate.compare import compare
from lynxstop.evaluate.report import as_csv, as_json, as_page
from lynxstop.evaluate.result import draws, effect, ratio
from lynxstop.replay.parts import parts_of
from lynxstop.replay.points import Replay, Trace, read_points, replay, table_of
from lynxstop.rules import Point
from lynxstop.rules.table import rule_named
from lynxstop_research.export import serial_groups, to_lines

NAMES = ("lynx", "deer", "convergence", "budget", "loop", "rpdi", "combined")


@pytest.fixture(scope="module")
def found(scripted):
    return compare(scripted, [rule_named(name) for name in NAMES], risk=0.4)


def trace(
    at_exit=(10, 20, 30), agrees=(False, True, True), tokens=100, right=True, exits=(False, True, None)
):
    return Trace(
        "t", "p", tokens, right, "7",
        tuple(Point({}, 0.0, position) for position in at_exit),
        np.array(at_exit), 1.0 - np.array(agrees, float), np.array(agrees), exits,
        np.ones(len(at_exit), bool), np.arange(len(at_exit)),
    )  # fmt: skip


def scored(*scores, costs=(5, 5, 5)):
    return Replay([np.array(scores, float)], [np.array(costs)])


def test_an_exit_pays_for_the_trials_up_to_it():
    done = effect([trace()], scored(0.1, 0.9, 0.95), 0.5)
    assert (done.gross[0], done.net[0], done.oracle[0], done.trials[0]) == (20, 30, 20, 2)
    assert (done.disagree[0], done.right_early[0]) == (0, 1)


def test_a_trace_that_never_exits_pays_for_all_trials():
    done = effect([trace()], scored(0.1, math.nan, 0.3), 0.5)
    assert (done.exits[0], done.gross[0], done.net[0]) == (False, 100, 115)


def test_a_refused_rule_does_not_even_look():
    done = effect([trace()], scored(9.0, 9.0, 9.0), math.inf)
    assert done.net[0] == 100


def test_an_unjudged_exit_is_a_disagreement_without_a_verdict():
    done = effect([trace(agrees=(False, True, False))], scored(0.0, 0.0, 0.9), 0.5)
    assert done.disagree[0] == 1
    assert not done.graded[0]


def test_abstaining_points_are_left_out_of_what_is_calibrated():
    table = table_of([trace()], [np.array([math.nan, 1.0, math.nan])])
    assert table.scores.tolist() == [1.0]
    assert table.tokens.tolist() == [20]


def test_parts_share_no_problem_and_keep_their_problems(scripted):
    parts = parts_of(scripted)
    ids = [set(part.problem_ids) for part in parts.values()]
    assert sum(map(len, ids)) == len(set.union(*ids)) == 160
    for part in parts.values():
        assert part.cues()["trace_id"].to_pylist() == [
            t["trace_id"] for t in part.traces().to_pylist() for _ in range(t["cues"])
        ]
        assert len(part.features()) == len(part.cues())
        assert len(list(part.tokens())) == len(part.traces())


def test_signals_count_what_was_recorded(scripted):
    traces = read_points(
        scripted, ["tokens", "cues"], np.zeros(len(scripted.cues()), np.float32), StopPolicy((1,))
    )
    for one in traces:
        for place, point in enumerate(one.points):
            assert point.signals == {"tokens": point.position, "cues": place}


def test_guards_keep_points_from_being_decided(scripted):
    logits = np.zeros(len(scripted.cues()), np.float32)
    every = read_points(scripted, [], logits, StopPolicy((1,)))
    guarded = read_points(scripted, [], logits, StopPolicy((1,), min_tokens=9))
    assert sum(len(t.points) for t in guarded) < sum(len(t.points) for t in every)
    assert all(point.position >= 9 for t in guarded for point in t.points)


def test_every_rule_gets_a_row_and_first_finish_too(found):
    rows = {line.row["rule"]: line.row for line in found.lines}
    assert set(rows) == {*NAMES, "first-finish"}
    assert rows["deer"]["trials"] > 0 or not rows["deer"]["certified"]
    assert rows["deer"]["tokens_net"] >= rows["deer"]["tokens_gross"]
    assert rows["loop"]["tokens_net"] == rows["loop"]["tokens_gross"]
    assert not rows["rpdi"]["certified"]  # traces of 25 tokens have no window of 512
    assert rows["rpdi"]["saved_net"] == 0


def test_a_certified_row_says_what_it_rests_on(found):
    for line in found.lines:
        if line.row["certified"]:
            assert line.row["risk_bound"] <= 0.4
            assert line.row["calibration_losses"] <= 0.4 * line.row["calibration_problems"]


def test_the_same_data_give_the_same_bytes(scripted, found):
    again = compare(scripted, [rule_named(name) for name in NAMES], risk=0.4)
    for write in (as_json, as_csv, as_page):
        assert write(again) == write(found)
    assert {row["rule"] for row in json.loads(as_json(found))["rules"]} == {*NAMES, "first-finish"}
    assert "deer (published)" in {row["rule"] for row in csv.DictReader(io.StringIO(as_csv(found)))}
    page = as_page(found)
    assert page.index("<svg") < page.index("<table")


def test_intervals_resample_problems_not_traces():
    problems = ["a"] * 50 + ["b"] * 50
    weights = draws(problems)
    assert set(np.unique(weights)) <= {0.0, 1.0, 2.0}
    whole = ratio(np.array([1.0] * 50 + [0.0] * 50), np.ones(100), weights)
    assert (whole.value, whole.low, whole.high) == (0.5, 0.0, 1.0)


def test_what_cannot_be_compared_is_refused(scripted):
    with pytest.raises(ConfigError, match="disagree"):
        compare(scripted, [rule_named("budget")], loss="nonsense")
    with pytest.raises(DataError, match="NaN"):
        replay(Infinite(), [trace()])


class Infinite(type(rule_named("budget"))):
    name = "infinite"

    def start(self):
        return lambda point: math.inf


def test_serial_groups_reward_the_first_right_exit_most(scripted):
    def decode(ids, skip_special_tokens):
        return "".join(map(chr, ids))

    rows = serial_groups(scripted, {f"p{i}": f"prompt {i}" for i in range(160)}, decode, decay=0.5)
    texts = {t["trace_id"]: t["text"] for t in scripted.traces().to_pylist()}
    rights: dict[str, int] = {}
    for row in rows:
        seen = rights.setdefault(row["group"], 0)
        assert row["reward"] == (0.5**seen if row["label"] else 0.0)
        rights[row["group"]] += row["label"]
        (turn,) = row["completion"]
        assert turn["content"].split("</think>")[0] == texts[row["group"]][: row["position"]]
        assert turn["content"].endswith(("}", "}."))
    assert len(rows) == len(scripted.cues()) + len(scripted.traces())
    assert json.loads(to_lines(rows).splitlines()[0])["prompt"][0]["role"] == "user"


def test_groups_need_prompts_and_a_decay(scripted):
    with pytest.raises(DataError, match="prompt"):
        serial_groups(scripted, {}, str)
    with pytest.raises(ConfigError, match="decay"):
        serial_groups(scripted, {}, str, decay=0.0)


def test_points_that_were_not_recorded_are_refused(scripted):
    with pytest.raises(DataError, match="not recorded"):
        compare(scripted, [rule_named("budget")], points=points_named("cue,boundary"))
    with pytest.raises(ConfigError, match="'sentence'"):
        points_named("sentence")
