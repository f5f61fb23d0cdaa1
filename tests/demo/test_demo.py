"""The demo, live on the shipped model and bundle."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.cli import app
from lynxstop.demo import held_out
from lynxstop.recordings.problems import load_problems


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "demo.html"


@pytest.fixture(scope="module")
def found(report: Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["demo", "-n", "60", "--seed", "11", "--report", str(report), "--json"])
    assert result.exit_code == 0, result.exception
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def test_it_says_all_that_is_asked(found: dict[str, Any]) -> None:
    asked = {"certified_risk", "confidence", "n_problems", "accuracy_full", "accuracy_early"}
    asked |= {"thinking_tokens_full", "thinking_tokens_early", "saved", "exits", "disagree", "harm"}
    asked |= {"help", "risk_bound", "seconds_full", "seconds_early"}

    assert all(found[name] is not None for name in asked)
    assert found["n_problems"] == 60


def test_it_saves_within_the_certified_risk(found: dict[str, Any]) -> None:
    assert found["saved"] >= 0.3
    assert found["exits"] > 40
    # more than 9 of 60 has probability below 0.2% at a risk of 5%
    assert found["disagree"] <= 9
    assert found["risk_bound"] <= found["certified_risk"]


def test_stopped_runs_are_the_full_ones_cut_short(found: dict[str, Any]) -> None:
    assert found["identical_until_exit"] is True


def test_the_report_is_one_file_with_its_pictures(found: dict[str, Any], report: Path) -> None:
    page = report.read_text()

    assert page.count("<svg") == 2
    assert not re.search(r"(src|href)=[\"']https?:", page)
    assert found["promise"] in page


def test_fresh_problems_are_in_no_shipped_set() -> None:
    fresh = {problem.id for seed in (1, 2, 3) for problem in held_out.problems(400, seed)}
    known = {p.id for path in shipped.PROBLEMS.glob("*.jsonl") for p in load_problems(path)}

    assert len(fresh) > 1000
    assert not fresh & known


def test_the_reason_of_an_exit_shows_in_the_text(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "-n", "12", "--report", str(tmp_path / "r.html")])

    assert result.exit_code == 0
    assert "stopped here, score" in result.stderr
