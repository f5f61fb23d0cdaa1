"""The ledger beside the data counts what was tried on them."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from lynxstop.calibration.ledger import NAME, attempt, read_ledger, record
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.select import calibrate_best
from lynxstop.cli import app
from lynxstop.errors import ConfigError, DataError

ASKED = CalibrationOptions(risks=[0.1])


def test_repeating_is_no_further_attempt_but_another_choice_is(simulated, tmp_path):
    path, table = tmp_path / NAME, simulated(300)
    assert record(path, attempt(table, ASKED)) == 1
    assert record(path, attempt(table, ASKED)) == 1
    # when the seed, the method or the scores differ, the data are the same
    assert record(path, attempt(table, replace(ASKED, seed=1))) == 2
    assert record(path, attempt(table, replace(ASKED, method="ucb"))) == 3
    assert record(path, attempt(replace(table, scores=-table.scores), ASKED)) == 4
    assert len(read_ledger(path)) == 4
    # and other problems count by themselves, while some of the same problems do not
    assert record(path, attempt(simulated(300, start="q"), ASKED)) == 1
    assert record(path, attempt(table.select(np.arange(200)), ASKED)) == 5


def test_looks_at_growing_data_count_once_with_the_method_for_them(simulated, tmp_path):
    table = simulated(400)
    for method, expected in (("anytime", [1, 1, 1]), ("ltt", [1, 2, 3])):
        path, asked = tmp_path / f"{method}.json", replace(ASKED, method=method)
        looks = [record(path, attempt(table.select(np.arange(n)), asked)) for n in (200, 300, 400)]
        assert looks == expected


def test_an_attempt_by_a_method_of_a_later_version_counts(simulated, tmp_path):
    path, table = tmp_path / NAME, simulated(50)
    record(path, attempt(table, ASKED))
    path.write_text(path.read_text().replace('"ltt"', '"later"'))
    assert record(path, attempt(table, ASKED)) == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"attempts": [1]}', "[" * 100_000], ids=range(5))
def test_a_damaged_ledger_is_not_taken_for_an_empty_one(simulated, tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with pytest.raises(DataError, match="damaged"):
        record(tmp_path / NAME, attempt(simulated(20), ASKED))


def test_the_command_warns_of_earlier_attempts(tmp_path):
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        rows = [(f"t{i}", f"p{i}", 0, i % 7, int(i % 50 == 0)) for i in range(300)]
        csv.writer(file).writerows([("trace_id", "problem_id", "cue", "score", "loss"), *rows])

    def call(*options):
        return CliRunner().invoke(app, ["calibrate", "--scores", str(path), *options])

    assert json.loads(call("--json").stdout)["tried"] == 1
    assert "were tried on these data" not in call().output
    second = call("--seed", "1")
    assert "2 calibrations were tried on these data" in " ".join(second.output.split())
    corrected = call("--seed", "1", "--tried", "2")
    assert "were tried on these data" not in corrected.output
    assert "for the best of 2 that were tried" in " ".join(corrected.output.split())
    # and a ledger that cannot be read is said, not ignored
    (tmp_path / NAME).write_text("?")
    assert "damaged" in call().output


def test_candidates_are_about_the_same_problems(simulated):
    with pytest.raises(ConfigError, match="same problems"):
        calibrate_best({"a": simulated(30), "b": simulated(40)}, ASKED)
    with pytest.raises(ConfigError, match="nothing"):
        calibrate_best({}, ASKED)


def test_an_average_promise_cannot_be_shared():
    with pytest.raises(ConfigError, match="no confidence"):
        CalibrationOptions(risks=[0.1], method="crc", tried=2)


def test_drawn_samples_do_not_grow(simulated):
    from lynxstop.calibration.run import calibrate
    from lynxstop.errors import CalibrationError

    table = simulated(100)
    table = replace(table, problem_ids=np.repeat([f"p{i:02d}" for i in range(50)], 2))
    asked = CalibrationOptions(risks=[0.3], method="anytime")
    assert calibrate(table, asked).certificates[0].problems == 50
    with pytest.raises(CalibrationError, match="several samples"):
        calibrate(table, replace(asked, samples="one"))
