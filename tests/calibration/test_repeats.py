"""The same prompt under other names: joined where it is calibrated on, refused where it was trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.calibration.certify import case_for
from lynxstop.calibration.evidence import read_evidence, write_evidence
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.repeats import check_unseen, joined_ids, repeated
from lynxstop.calibration.run import calibrate
from lynxstop.calibration.tables import read_table
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.verify import differences
from lynxstop.errors import DataError
from lynxstop.recordings.prompts import prompt_digest


def table(prompts, problems=None, bad=()):
    n = len(prompts)
    return TraceTable.from_arrays(
        problem_ids=problems or [f"p{i:04d}" for i in range(n)],
        trace_ids=[f"t{i:04d}" for i in range(n)],
        lengths=np.ones(n, int),
        scores=np.linspace(1, 2, n),
        losses=[float(i in bad) for i in range(n)],
        prompts=prompts,
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Compute 2+3.", "  compute\t2+3.\n", True),
        ("ﬁnd x² in Straße", "FIND X2 IN STRASSE", True),
        ("Compute 2+3.", "\ufeffCom\u00adpute\u200b 2+3.\u200e", True),
        ("Compute 2+3.", "Compute 2+4.", False),
        ("a b", "ab", False),
        (
            ({"role": "system", "content": "Be  brief."}, {"role": "user", "content": "Hi"}),
            ({"role": "system", "content": "be brief."}, {"role": "user", "content": "hi"}),
            True,
        ),
        (({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}), "Hi", False),
    ],
)
def test_prompts_are_equal_up_to_spelling(one, other, same):
    assert (prompt_digest(one) == prompt_digest(other)) is same


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", *"uvwxyz"])), max_size=12))
def test_problems_are_joined_exactly_when_a_chain_of_prompts_links_them(rows):
    problems = np.array([problem for problem, _ in rows], dtype=np.str_)
    prompts = np.array([prompt for _, prompt in rows], dtype=np.str_)
    made = joined_ids(problems, prompts)
    # given the links by their definition: closed under sharing an id or a known prompt
    linked = [{i} for i in range(len(rows))]
    for i, (problem, prompt) in enumerate(rows):
        for j, (other, its) in enumerate(rows[:i]):
            if problem == other or (prompt and prompt == its):
                union = linked[i] | linked[j]
                for k in union:
                    linked[k] = union
    for i in range(len(rows)):
        assert made[i] == min(problems[k] for k in linked[i])


def test_five_prompts_under_a_hundred_ids_are_five_problems():
    # given a table that would certify 5% if every id were a problem
    one = table([f"digest-{i % 5}" for i in range(100)])
    options = CalibrationOptions(risks=[0.05])
    assert not calibrate(table([""] * 100), options).refused
    # when it is calibrated, then five problems are counted, which certify nothing
    (made,) = calibrate(one, options).certificates
    assert (made.problems, made.repeated, made.refused) == (5, 95, True)
    assert "95 problem ids repeat prompts of others and count as the same" in made.promise


def test_without_prompts_nothing_is_compared_and_digests_stay():
    plain = table([""] * 60)
    assert plain.prompts is None
    assert repeated(plain) is None
    assert calibrate(plain, CalibrationOptions(risks=[0.05])).certificates[0].repeated is None
    check_unseen(["digest"], plain.problem_ids, plain.prompts)


def test_a_renamed_training_prompt_is_refused():
    one = table([f"digest-{i}" for i in range(60)])
    with pytest.raises(DataError, match=r"2 prompts are in training.*'p0007'"):
        calibrate(one, CalibrationOptions(risks=[0.05]), train_prompts=["digest-7", "digest-9", "other"])
    calibrate(one, CalibrationOptions(risks=[0.05]), train_prompts=["other"])


def test_training_traces_of_a_score_table_are_compared_by_prompt(tmp_path: Path):
    # given score tables with the texts of the prompts
    for name, ids in (("train", "ab"), ("calibration", "xy")):
        rows = [
            f"{i},{i},0,1.0,0,{text}" for i, text in zip(ids, ("Add 2  and 3", "Add 4 and 5"), strict=True)
        ]
        (tmp_path / f"{name}.csv").write_text(
            "trace_id,problem_id,cue,score,loss,prompt\n" + "\n".join(rows).lower() + "\n"
        )
    train, other = (read_table(tmp_path / f"{name}.csv") for name in ("train", "calibration"))
    with pytest.raises(DataError, match="2 prompts are in training"):
        calibrate(other, CalibrationOptions(risks=[0.05]), train_scores=train)


def test_repeats_survive_the_evidence_and_are_verified(tmp_path: Path):
    # given a certificate about traces of which some repeat a prompt
    one = table([f"digest-{i // 2}" for i in range(200)], bad=(3,))
    (made,) = calibrate(one, CalibrationOptions(risks=[0.05])).certificates
    write_evidence(one, tmp_path / "evidence.parquet")
    again = read_evidence(tmp_path / "evidence.parquet")
    # then it is confirmed by its evidence, and not when it denies the repeats
    assert again.digest() == one.digest()
    assert differences(made, again) == []
    denied = made.model_copy(update={"repeated": 0})
    assert any("repeated" in line for line in differences(denied, again))


def test_groups_tell_repeats_apart_on_their_own():
    # given a prompt that two tenants ask
    one = TraceTable.from_arrays(
        problem_ids=["a", "b"], lengths=[1, 1], scores=[1.0, 2.0], losses=[0.0, 0.0],
        groups=["x", "y"], prompts=["d", "d"],
    )  # fmt: skip
    made = calibrate(one, CalibrationOptions(risks=[0.5], by="tenant")).certificates
    assert [(c.problems, c.repeated) for c in made] == [(1, 1), (1, 0), (1, 0)]
    assert case_for(one, made[0]).units.count == 1


def test_the_cases_of_renamed_prompts_are_known():
    train = Path(__file__).parents[2] / "data" / "problems" / "train.jsonl"
    lines = [json.loads(line) for line in train.read_text().splitlines()[:100]]
    renamed = [
        line | {"id": f"new-{i}", "prompt": f" {line['prompt'].upper()}\n"} for i, line in enumerate(lines)
    ]
    own = {prompt_digest(line["prompt"]) for line in lines}
    assert {prompt_digest(line["prompt"]) for line in renamed} == own
