"""Tables that once gave a promise they do not support: refused, or said what they are."""

import csv
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lynxstop.calibration.case import fixed_sequence
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.units import as_units
from lynxstop.calibration.weighted import estimate_weights
from lynxstop.cli import app
from lynxstop.errors import CalibrationError, ConfigError, DataError
from lynxstop.recordings.prompts import prompt_digest
from lynxstop.workflows.verify_bundle import verify_path

HEAD = ("trace_id", "problem_id", "cue", "score", "loss")


def write(path, rows, head=HEAD):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def command(*arguments):
    return CliRunner().invoke(app, ["calibrate", *(str(argument) for argument in arguments)])


def level(*arguments):
    result = command(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)["levels"][0]


def test_a_prompt_asked_very_often_counts_as_often(tmp_path):
    # given 300 of 1,000 requests that are one prompt, which always loses
    rows = [(f"t{i}", "hot" if i < 300 else f"p{i}", 0, 2.0, int(i < 300)) for i in range(1000)]
    path = write(tmp_path / "table.csv", rows)
    # then nothing is promised about requests
    assert level("--scores", path)["refused"]
    # and what is promised about problems says so
    once = level("--scores", path, "--unit", "problem")
    assert (once["refused"], once["losses"], once["n"]) == (False, 1, 701)
    assert "of problems drawn like these, each asked once, get" in once["promise"]


def test_weights_name_the_mix_they_stand_for(tmp_path):
    # given losses only among prompts that hardly count
    path = write(tmp_path / "table.csv", [(f"t{i}", f"p{i}", 0, 1, int(i < 100)) for i in range(500)])
    rows = [(f"t{i}", 0.04 if i < 100 else 1.24) for i in range(500)]
    weights = write(tmp_path / "weights.csv", rows, ("trace_id", "weight"))
    made = level("--scores", path, "--method", "weighted", "--weights", weights)
    assert "in the mix that the weights stand for (none above 1.24), get" in made["promise"]
    assert "Observed 100/500, which is 0.8% by weight" in made["promise"]
    # when the weights rest on a few prompts, then nothing is certified, and the sentence says why
    rows = [(f"t{i}", 1.0 if i % 50 == 0 else 0.001) for i in range(500)]
    few = level(
        "--scores",
        path,
        "--method",
        "weighted",
        "--weights",
        write(weights, rows, ("trace_id", "weight")),
    )
    assert few["refused"]
    assert "100 are needed" in few["promise"]


def test_weights_of_mixes_that_do_not_overlap_are_refused():
    rng = np.random.default_rng(0)
    here = rng.normal(0, 1, (300, 2))
    assert estimate_weights(here, rng.normal(0.3, 1, (300, 2))).mean() == pytest.approx(1)
    with pytest.raises(DataError, match="overlap"):
        estimate_weights(here, rng.normal(5, 1, (300, 2)))


def test_unknown_answers_that_cost_nothing_are_said(tmp_path):
    path = write(tmp_path / "table.csv", [(f"t{i}", f"p{i}", 0, 1, "") for i in range(100)])
    assert level("--scores", path)["refused"]
    free = level("--scores", path, "--unknown-loss", 0)
    assert "100 of 100 exit answers could not be judged and count as a loss of 0 each" in free["promise"]
    assert (free["unknown"], free["unknown_loss"]) == (100, 0)


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 6, 7])
def test_means_of_several_samples_are_exact(samples):
    # given problems all of whose samples lose, or none
    lost = np.repeat(np.arange(182) < 3, samples)
    table = TraceTable.from_arrays(
        trace_ids=[f"t{i}" for i in range(len(lost))],
        problem_ids=np.repeat([f"p{i:03d}" for i in range(182)], samples),
        lengths=np.ones(len(lost), int),
        scores=lost.astype(float),
        losses=lost,
    )
    asked = CalibrationOptions(risks=[0.05], method="hoeffding_bentkus")
    made = calibrate(table, asked).certificates[0]
    # then the losses are a whole number, and as many problems are certified as with one sample
    assert (made.losses, made.refused) == (3, False)
    assert made.observed == 3


def test_scaled_weights_give_the_same_sums_as_fractions(simulated):
    table = simulated(60)
    problems = np.repeat([f"p{i:02d}" for i in range(20)], 3)
    from dataclasses import replace

    from lynxstop.calibration.case import Case

    units = as_units(replace(table, problem_ids=problems), "mean", 0)
    case = Case(units, units.table.charged(1.0))
    assert units.scale == 3
    for threshold in case.fine.thresholds:
        at = case.at(np.array([threshold]))
        exits = [
            units.table.losses[a:b][np.argmax(units.table.scores[a:b] > threshold)]
            for a, b in zip(units.table.offsets[:-1], units.table.offsets[1:], strict=True)
            if (units.table.scores[a:b] > threshold).any()
        ]
        assert (at.losses[0], at.exits[0]) == (np.float64(sum(exits)) / 3, len(exits) / 3)


def test_a_threshold_that_nothing_exceeds_is_a_refusal(tmp_path):
    # given a score that says nothing: every request loses
    path = write(tmp_path / "table.csv", [(f"t{i}", f"p{i}", 0, i % 6, 1) for i in range(300)])
    made = level("--scores", path)
    assert (made["refused"], made["exits"], made["missing"]) == (True, 0, None)
    failed = command("--scores", path, "--require")
    assert isinstance(failed.exception, CalibrationError)
    assert failed.exception.hint is not None
    assert "train a better probe" in failed.exception.hint


def odd(kind):
    plain = {"trace_id": ["a", "b"], "problem_id": ["a", "b"], "cue": [0, 0], "score": [0.1, 0.2]}
    table: dict[str, Any] = plain | {"loss": [0.0, 1.0]}
    changes: dict[str, dict[str, Any]] = {
        "list": {"score": [[0.1], [0.2]]},
        "struct": {"trace_id": [{"a": 1}, {"a": 2}]},
        "map": {"loss": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64()))},
        "time": {"score": pa.array([0, 1], pa.timestamp("s"))},
        "half": {"cue": [0.5, 1.5]},
        "bytes": {"problem_id": pa.array([b"\xff", b"\xfe"])},
        "nulls": {"score": pa.nulls(2)},
        "lowest": {"score": [-3.4028234663852886e38, 1.0]},
        "huge": {"score": [1e300, 1.0]},
    }
    return pa.table(table | changes[kind])


KINDS = ("list", "struct", "map", "time", "half", "bytes", "nulls", "lowest", "huge")


@pytest.mark.parametrize("kind", KINDS)
def test_odd_columns_are_one_clear_error(tmp_path, kind):
    pq.write_table(odd(kind), tmp_path / "table.parquet")
    failed = command("--scores", tmp_path / "table.parquet")
    assert isinstance(failed.exception, DataError), failed.exception
    assert failed.exception.hint
    assert "\n" not in failed.exception.message


@pytest.mark.parametrize("twin", ["Loss", " loss", "LOSS "])
def test_a_column_that_is_there_in_two_spellings_is_an_error(tmp_path, twin):
    failed = command("--scores", write(tmp_path / "table.csv", [("t", "p", 0, 1, 0, 1)], (*HEAD, twin)))
    assert "several columns 'loss'" in str(failed.exception)


@pytest.mark.parametrize("weight", [1e308, 1e-300, "nan", "inf", -1, 0])
def test_weights_that_cannot_be_used_are_one_clear_error(tmp_path, weight):
    path = write(tmp_path / "table.csv", [(f"t{i}", f"p{i}", 0, 1, 0) for i in range(200)])
    weights = write(tmp_path / "w.csv", [(f"t{i}", weight) for i in range(200)], ("trace_id", "weight"))
    failed = command("--scores", path, "--method", "weighted", "--weights", weights)
    assert isinstance(failed.exception, DataError), failed.exception


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_that_is_there_twice_is_an_error(tmp_path, suffix):
    path = tmp_path / f"table.{suffix}"
    if suffix == "csv":
        write(path, [("t", "p", 0, 1, 0, 1)], (*HEAD, "loss"))
    else:
        columns = [pa.array(["t"]), pa.array(["p"]), pa.array([0]), pa.array([1.0]), pa.array([0.0])]
        pq.write_table(pa.table([*columns, columns[-1]], names=[*HEAD, "loss"]), path)
    failed = command("--scores", path)
    assert "several columns 'loss'" in str(failed.exception)
    weights = write(tmp_path / "w.csv", [("t", 1, 1)], ("trace_id", "weight", "weight"))
    good = write(tmp_path / "good.csv", [("t", "p", 0, 1, 0)])
    failed = command("--scores", good, "--method", "weighted", "--weights", weights)
    assert "several columns 'weight'" in str(failed.exception)


PROMPTS = {
    "numbers": [7] * 150 + list(range(100, 250)),
    "days": pa.array([0] * 150 + list(range(1, 151)), pa.date32()),
    "categories": pa.array(["same"] * 150 + [f"q{i}" for i in range(150)]).dictionary_encode(),
    "bytes": [b"same"] * 150 + [f"q{i}".encode() for i in range(150)],
    "messages": [[{"role": "user", "content": "same"}]] * 150
    + [[{"role": "user", "content": f"q{i}"}] for i in range(150)],
    "hidden": ["sa\u200bme" * (i % 2) or "\ufeffsame" for i in range(150)] + [f"q{i}" for i in range(150)],
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_repeated_prompts_are_found_in_a_column_of_any_type(tmp_path, kind, suffix):
    # given 300 requests, half of which are one prompt
    plain = [(f"t{i}", f"p{i}", 0, 2.0, int(i % 40 == 0)) for i in range(300)]
    path = tmp_path / f"table.{suffix}"
    if suffix == "csv":
        prompts = pa.array(PROMPTS[kind]).to_pylist()
        texts = [one.decode() if isinstance(one, bytes) else one for one in prompts]
        write(path, [(*row, text) for row, text in zip(plain, texts, strict=True)], (*HEAD, "prompt"))
    else:
        columns = [*map(pa.array, map(list, zip(*plain, strict=True))), pa.array(PROMPTS[kind])]
        pq.write_table(pa.table(columns, names=[*HEAD, "prompt"]), path)
    made = level("--scores", path, "--risk", 0.1)
    assert (made["repeated"], made["refused"]) == (149, True)


def test_a_prompt_stands_in_for_a_digest_that_is_empty(tmp_path):
    rows = [(f"t{i}", f"p{i}", 0, 2.0, 0, "q" if i < 9 else f"q{i}", "" if i % 2 else "d") for i in range(20)]
    path = write(tmp_path / "table.csv", rows, (*HEAD, "prompt", "prompt_sha256"))
    # then the ten of one digest are one problem, and so are the four of one text without a digest
    assert level("--scores", path)["repeated"] == 9 + 3


@pytest.mark.parametrize("spelt", [str.upper, " {} ".format, "sha256:{}".format, "SHA256:{}".format])
def test_a_digest_is_known_in_other_spellings(tmp_path, spelt):
    digest = prompt_digest("q")
    rows = [(f"t{i}", f"p{i}", 0, 2.0, 0, spelt(digest) if i % 2 else digest) for i in range(20)]
    path = write(tmp_path / "table.csv", rows, (*HEAD, "prompt_sha256"))
    assert level("--scores", path)["repeated"] == 19
    training = write(tmp_path / "train.csv", [("u", "r", 0, 2.0, 0, spelt(digest))], (*HEAD, "prompt_sha256"))
    seen = command("--scores", path, "--train", training, "--method", "split")
    assert "in training" in str(seen.exception)


def test_prompts_that_are_no_prompts_are_refused(tmp_path):
    columns = [pa.array(["t"]), pa.array(["p"]), pa.array([0]), pa.array([1.0]), pa.array([0])]
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table([*columns, pa.array([{"text": "q"}])], names=[*HEAD, "prompt"]), path)
    assert "the prompt must be" in str(command("--scores", path).exception)


@pytest.mark.parametrize("name", ["Prompt", "prompt ", "Full_Tokens", "PROMPT_SHA256"])
def test_a_column_that_would_not_be_read_for_its_spelling_is_an_error(tmp_path, name):
    failed = command("--scores", write(tmp_path / "table.csv", [("t", "p", 0, 1, 0, 1)], (*HEAD, name)))
    assert "is spelt differently" in str(failed.exception)


@pytest.mark.parametrize("row", [("t", "p", "", 2.0, 1), ("t", "p", "", 2.0, ""), ("t", "p", "", "", 1)])
def test_a_point_without_its_cue_is_no_trace_without_cues(tmp_path, row):
    rows = [(f"t{i}", f"p{i}", 0, 1, 0) for i in range(100)]
    failed = command("--scores", write(tmp_path / "table.csv", [*rows, row]))
    assert "has a score or a loss, and no cue" in str(failed.exception)
    for loss in ("", 0):
        path = write(tmp_path / "table.csv", [*rows, ("t", "p", "", "", loss)])
        assert level("--scores", path)["problems"] == 101


def test_a_group_that_is_nan_is_missing(tmp_path):
    columns = [pa.array(list("ab")), pa.array(list("ab")), pa.array([0, 0]), pa.array([1.0, 2.0])]
    path = tmp_path / "table.parquet"
    columns += [pa.array([0, 0]), pa.array([1.0, float("nan")])]
    pq.write_table(pa.table(columns, names=[*HEAD, "route"]), path)
    assert "has no route" in str(command("--scores", path, "--by", "route").exception)


@pytest.mark.parametrize("option", ["--by", "--subgroup"])
@pytest.mark.parametrize("name", ["loss", "score", "cue"])
def test_what_is_not_known_beforehand_makes_no_groups(tmp_path, option, name):
    path = write(tmp_path / "table.csv", [(f"t{i}", f"p{i}", 0, 1, i % 2) for i in range(99)])
    failed = command("--scores", path, option, name)
    assert isinstance(failed.exception, ConfigError)
    assert f"No groups can be made of the column {name!r}" in str(failed.exception)


def test_a_subgroup_that_is_named_twice_counts_once(tmp_path):
    rows = [(f"t{i}", f"p{i}", 0, 1, 0, "ab"[i % 2]) for i in range(200)]
    path = write(tmp_path / "table.csv", rows, (*HEAD, "route"))
    out = tmp_path / "out"
    level("--scores", path, "--subgroup", "route", "--subgroup", "route", "--out", out)
    assert verify_path(out).holds


@pytest.mark.parametrize(
    "words",
    [
        ("--risk", "1e-320"),
        ("--risk", "1e-10"),
        ("--tried", str(10**400)),
        ("--expires", str(10**9)),
        ("--default-risk", "0.05"),
        ("--out", "table.csv"),
        ("--report", "."),
        ("--report", "table.csv/report.html"),
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_impossible_options_are_one_clear_error(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "table.csv", [(f"t{i}", f"p{i}", 0, 1, 0) for i in range(200)])
    failed = command("--scores", "table.csv", *words)
    assert isinstance(failed.exception, ConfigError | SystemExit), failed.exception
    assert failed.exit_code in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_no_threshold_is_accepted_at_a_limit_that_is_no_number():
    assert fixed_sequence(np.array([0.0, 0.0]), float("nan")) == -1
    assert fixed_sequence(np.array([0.0, np.nan, 0.0]), 0.05) == 0


def test_a_misspelt_loss_is_an_error(tmp_path):
    path = write(
        tmp_path / "table.csv", [(f"t{i}", f"p{i}", 0, 1, 0, 1) for i in range(99)], (*HEAD, "toxicity")
    )
    failed = command("--scores", path, "--loss", "toxicty")
    assert "no loss 'toxicty'" in str(failed.exception)
    assert "toxicity" in failed.exception.hint
    assert level("--scores", path, "--loss", "toxicity")["refused"]
    assert not level("--scores", path, "--loss", "harm")["refused"]
