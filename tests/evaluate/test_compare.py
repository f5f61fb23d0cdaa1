"""Rules on the same traces: splits, costs, certificates and what is written."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from lynxstop.calibration.losses import LOSSES
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from lynxstop.core.points import points_named
from lynxstop.core.policy import StopPolicy
from lynxstop.errors import ConfigError, DataError
from lynxstop.evaluate.compare import compare
from lynxstop.evaluate.intervals import draws, ratio
from lynxstop.evaluate.report import as_csv, as_json, as_page, lead, ordered
from lynxstop.replay.exits import ExitTable, read_exits
from lynxstop.replay.parts import parts_of
from lynxstop.replay.points import read_points, score_points
from lynxstop.rules import Point
from lynxstop.rules.table import rule_named
from lynxstop_research.export import serial_groups, to_lines
from tests.support.scripted import SAMPLING, ScriptedSource, problems

NAMES = ("lynx", "deer", "convergence", "budget", "loop", "rpdi", "combined")


@pytest.fixture(scope="module")
def found(scripted):
    return compare(scripted, [rule_named(name) for name in NAMES], risk=0.4)


def trace(agrees=(False, True, True), right=(0.0, 1.0, math.nan)):
    """One trace of 100 tokens, whose answer is right, with exits at 10, 20 and 30."""
    return ExitTable(
        trace_ids=np.array(["t"]), problem_ids=np.array(["p"]), full_tokens=np.array([100]),
        full_right=np.ones(1), full_parsed=np.ones(1, bool), owners=np.zeros(3, int),
        tokens=np.array([10, 20, 30]), agrees=np.array(agrees, float), right=np.array(right),
        parsed=np.ones(3, bool), cue=np.ones(3, bool), rows=np.arange(3),
    )  # fmt: skip


def at(table, scores, threshold):
    return table.at(np.array(scores, np.float32), threshold, np.array([5, 5, 5]))


def test_an_exit_pays_for_the_trials_up_to_it():
    done = at(trace(), (0.1, 0.9, 0.95), 0.5)
    assert (done.gross[0], done.net[0], done.oracle[0], done.trials[0]) == (20, 30, 20, 2)
    assert (done.disagree[0], done.right_early[0]) == (0, 1)


def test_a_trace_that_never_exits_pays_for_all_trials():
    done = at(trace(), (0.1, math.nan, 0.3), 0.5)
    assert (done.exits[0], done.gross[0], done.net[0]) == (False, 100, 115)


def test_a_refused_rule_does_not_even_look():
    done = at(trace(), (9.0, 9.0, 9.0), math.inf)
    assert done.net[0] == 100


def test_an_unjudged_exit_is_a_disagreement_without_a_verdict():
    done = at(trace(agrees=(False, True, False)), (0.0, 0.0, 0.9), 0.5)
    assert done.disagree[0] == 1
    assert not done.graded[0]


def test_abstaining_points_are_left_out_of_what_is_calibrated():
    table = trace().scored(np.array([math.nan, 1.0, math.nan]), LOSSES["disagree"])
    assert table.scores.tolist() == [1.0]
    assert table.tokens.tolist() == [20]


def test_an_answer_that_was_not_parsed_has_an_unknown_loss():
    table = replace(trace(), parsed=np.array([True, False, True]))
    scores = np.arange(3.0)
    assert np.array_equal(table.scored(scores, LOSSES["disagree"]).losses, [1, math.nan, 0], equal_nan=True)
    unparsed = replace(table, full_parsed=np.zeros(1, bool))
    assert np.isnan(unparsed.scored(scores, LOSSES["disagree"]).losses).all()


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


def test_parts_share_no_prompt_under_another_id(tmp_path):
    # given prompts that come under two ids each
    asked = [replace(one, prompt=f"prompt {number % 30}") for number, one in enumerate(problems(60))]
    data = collect(ScriptedSource(), asked, tmp_path / "data", SAMPLING, CollectOptions())

    found = [set(part.traces()["prompt_sha256"].to_pylist()) for part in parts_of(data).values()]

    assert sum(map(len, found)) == len(set.union(*found)) == 30


def test_recorded_splits_that_share_a_prompt_are_refused(tmp_path):
    splits = ("train", "calibration", "test")
    asked = [
        replace(one, prompt=f"prompt {number // 2}", metadata={"split": splits[number % 3]})
        for number, one in enumerate(problems(60))
    ]
    data = collect(ScriptedSource(), asked, tmp_path / "data", SAMPLING, CollectOptions())
    with pytest.raises(DataError, match="prompts are in training and here"):
        compare(data, [rule_named("budget")])


def test_signals_count_what_was_recorded(scripted):
    table = read_points(
        scripted, ["tokens", "cues"], np.zeros(len(scripted.cues()), np.float32), StopPolicy((1,))
    )
    for own in table.points:
        for place, point in enumerate(own):
            assert point.signals == {"tokens": point.position, "cues": place}


@pytest.mark.parametrize("guards", [{}, {"min_tokens": 9}, {"cooldown": 7}])
def test_a_session_over_recorded_traces_finds_the_eligible_points(scripted, guards):
    # given the points that the array form of the guards lets exit
    policy = StopPolicy((1,), **guards)
    expected = read_exits(scripted, policy)
    assert (len(expected.rows) < len(scripted.cues())) == bool(guards)
    # when a session reads the traces, then it decides at the same
    table = read_points(scripted, [], np.arange(len(scripted.cues()), dtype=np.float32), policy)
    assert table.rows.tolist() == expected.rows.tolist()
    positions = scripted.cues()["position"].to_numpy()[table.rows]
    points = [point for own in table.points for point in own]
    assert [point.position for point in points] == positions.tolist()
    assert [point.logit for point in points] == table.rows.tolist()


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


def test_the_main_sentence_rounds_neither_risk_nor_confidence_away(scripted):
    found = compare(scripted, [rule_named("budget")], risk=0.995, confidence=0.999)
    assert "At a certified 99.5% risk of disagree (confidence 99.9%)" in lead(found)
    found = compare(scripted, [rule_named("budget")], risk=0.004)
    assert lead(found) == "No rule could be certified at 0.4%."


def test_the_best_of_several_rules_is_promised_nothing(found):
    assert "the best of them has no promise" in lead(found)
    assert "no promise" not in lead(replace(found, lines=ordered(found)[:1]))


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
        score_points(Infinite(), replace(trace(), points=[[Point({}, 0.0, 10)] * 3]))


class Infinite(type(rule_named("budget"))):  # type: ignore[misc]
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
