"""calibrate, plan and verify on the command line, as programs call them."""

import csv
import json

import numpy as np
import pytest
from scipy.stats import binom
from typer.testing import CliRunner

from lynxstop.artifacts.seal import seal
from lynxstop.calibration.bounds import binomial_p
from lynxstop.calibration.plan import chance, strictest
from lynxstop.cli import app
from lynxstop.errors import CalibrationError, ConfigError, LynxstopError

run = CliRunner()


@pytest.fixture
def scores(simulated, tmp_path):
    """A score table as another system would write it."""
    table, path = simulated(400, groups=True), tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("trace_id", "problem_id", "cue", "score", "loss", "tokens", "full_tokens", "topic"))
        for i in range(table.traces):
            first, end = table.offsets[i], table.offsets[i + 1]
            head, tail = (table.trace_ids[i], table.problem_ids[i]), (table.full_tokens[i], table.groups[i])
            if first == end:
                writer.writerow((*head, "", "", "", "", *tail))
            for e in range(first, end):
                writer.writerow(
                    (*head, e - first, table.scores[e], int(table.losses[e]), table.tokens[e], *tail)
                )
    return path


def call(*arguments, fails=None):
    """Run a command; return its JSON, or the error it ended with."""
    result = run.invoke(app, [str(argument) for argument in arguments])
    if fails is not None:
        assert isinstance(result.exception, fails), result.output
        return result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout) if "--json" in arguments else result.output


def test_a_score_table_is_certified_and_verified(scores, tmp_path):
    # given a table, when two levels are certified for all and for each group
    out, report = tmp_path / "certificates", tmp_path / "report.html"
    options = ("--risk", 0.05, "--risk", 0.2, "--by", "topic", "--out", out, "--report", report)
    levels = call("calibrate", "--scores", scores, *options, "--json")["levels"]
    assert [(level["group"], level["risk"]) for level in levels][:3] == [
        (None, 0.05),
        (None, 0.2),
        ("code", 0.05),
    ]
    assert levels[0]["k"] <= 20
    assert levels[0]["bound"] <= 0.05
    assert 0 < levels[0]["saved"] < levels[1]["saved"] < 1
    # then all six certificates hold, against their evidence and against the table
    assert call("verify", out, "--json")["holds"]
    checked = call("verify", out, scores, "--json")
    assert (checked["holds"], len(checked["certificates"])) == (True, 6)
    assert report.read_text().startswith("<!doctype html>")


def test_a_changed_certificate_fails(scores, tmp_path):
    out = tmp_path / "certificates"
    call("calibrate", "--scores", scores, "--out", out)
    path = next(out.glob("risk-*.json"))
    content = json.loads(path.read_text())
    changed = {**content, "losses": content["losses"] - 1}
    path.write_text(json.dumps(changed))
    assert "its digest differs" in str(call("verify", path, fails=CalibrationError))
    # and when its own digest is made to fit, its folder's and its evidence still speak
    path.write_text(json.dumps(seal(changed)))
    assert "losses differs" in str(call("verify", path, fails=CalibrationError))
    (out / "SHA256SUMS").unlink()
    assert "losses differs" in str(call("verify", path, fails=CalibrationError))


def test_a_refusal_is_a_result_unless_required(scores, tmp_path):
    # given a level that 400 problems cannot certify
    level = call("calibrate", "--scores", scores, "--risk", 0.001, "--json")["levels"][0]
    assert (level["refused"], level["threshold"]) == (True, None)
    assert level["missing"] == 2995 - 400
    # then it is an error only when asked for, and nothing is written
    out = tmp_path / "certificates"
    options = ("--risk", 0.001, "--require", "--out", out)
    assert "2595 more" in str(call("calibrate", "--scores", scores, *options, fails=CalibrationError))
    assert not out.exists()


def test_people_get_a_table(scores):
    shown = call("calibrate", "--scores", scores, "--risk", 0.1)
    assert "With confidence 95%" in shown
    assert "Not promised" in shown


def test_weights_and_training_scores_are_files(scores, simulated, tmp_path):
    weights, ids = tmp_path / "weights.csv", [f"p{i:05d}" for i in range(400)]
    weights.write_text("trace_id,weight\n" + "".join(f"{name},{1 + i % 2}\n" for i, name in enumerate(ids)))
    options = ("--method", "weighted", "--weights", weights)
    assert call("calibrate", "--scores", scores, *options, "--json")["levels"][0]["k"] > 0
    train = tmp_path / "train.csv"
    train.write_text(scores.read_text().replace("p0", "t0"))
    level = call(
        "calibrate", "--scores", scores, "--loss", "wrong|exit", "--train", train, "--risk", 0.2, "--json"
    )
    assert level["levels"][0]["n"] < 400


@pytest.mark.parametrize(
    "arguments",
    [
        ("calibrate",),
        ("calibrate", "bundle"),
        ("calibrate", "bundle", "data", "--scores", "table.csv"),
        ("calibrate", "--scores", "table.csv", "--samples", "some"),
        ("calibrate", "--scores", "table.csv", "--together", "some"),
        ("plan", "--risk", 0.05, "--expected-loss", 0.05),
    ],
)
def test_wrong_combinations_are_refused(arguments):
    call(*arguments, "--json", fails=LynxstopError)


def test_plan_sizes_levels_together():
    lossless = ("--expected-loss", 0)
    alone = call("plan", "--risk", 0.02, "--confidence", 0.95, *lossless, "--json")
    assert alone["problems"] == 149
    both = call("plan", "--risk", 0.02, "--risk", 0.05, "--groups", 3, *lossless, "--json")
    assert both["problems"] == 3 * both["levels"][0]["problems"] > 3 * 149
    assert "149" in call("plan", "--risk", 0.02)


def test_plan_does_not_count_on_a_threshold_that_never_loses():
    found = call("plan", "--risk", "5%", "--json")
    sizes = {made["expected_loss"]: made["problems"] for made in found["by_true_loss"]}
    assert sizes.keys() == {0.0, 0.01, 0.02}
    assert sizes[0.0] == 59 < sizes[0.01] < sizes[0.02] == found["problems"]
    # a level of which 1% and 2% leave nothing is sized for half of it
    assert call("plan", "--risk", "1%", "--json")["levels"][0]["expected_loss"] == 0.005


@pytest.mark.parametrize("problems", [30, 59, 124, 400])
def test_the_chance_is_that_of_the_exact_test(problems):
    counts = np.arange(problems + 1)
    passing = counts[binomial_p(counts, problems, 0.05) <= 0.05]
    exact = binom.pmf(passing, problems, 0.01).sum()
    assert chance(problems, 0.05, expected_loss=0.01) == pytest.approx(exact)
    # and nothing stricter than the strictest level is certified, even without a loss
    level = strictest(problems)
    assert binomial_p(0, problems, level) == pytest.approx(0.05)


def test_an_error_of_a_level_is_a_config_error(scores):
    for risk in (0, 1, -1, np.nan):
        call("calibrate", "--scores", scores, "--risk", risk, fails=ConfigError)
