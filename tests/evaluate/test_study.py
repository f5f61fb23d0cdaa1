"""`lynxstop study`: suites, flips, budgets of equal cost, and one small study to its page."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.cli import app
from lynxstop.errors import DataError
from lynxstop.recordings.hub import HubName
from lynxstop.recordings.storage import Recording
from lynxstop.replay.exits import read_exits
from lynxstop_research import study as workflow
from lynxstop_research import study_flips
from lynxstop_research.study_speed import equal_budget
from lynxstop_research.suites import SUITES, load_suite


def test_suites_name_data_sets_with_a_revision() -> None:
    assert all(HubName.parse(suite.source).revision for suite in SUITES.values())
    with pytest.raises(DataError, match="no suite 'maths'"):
        load_suite("maths")


def test_a_budget_of_equal_cost_spends_as_much(scripted: Recording) -> None:
    table = read_exits(scripted)
    table = replace(table, full_tokens=np.arange(len(table.full_tokens)))
    wanted = 0.4 * table.full_tokens.sum()

    budget = equal_budget(table, wanted)

    assert np.minimum(table.full_tokens, budget - 1).sum() < wanted
    assert np.minimum(table.full_tokens, budget).sum() >= wanted


def test_only_decisions_on_the_same_text_are_flipped(
    scripted: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given two recordings of the same traces, and scores that cross the threshold at one decision of each
    bundle = Bundle.load(shipped.BUNDLE)
    level = bundle.policy.pooled[0]
    count = len(scripted.cues())
    first, second = np.full((2, count), level.threshold - 1, np.float32)
    ends = np.cumsum(scripted.traces()["cues"].to_numpy())
    ours = [place for place in range(len(ends)) if scripted.traces()["cues"].to_numpy()[place] > 1]
    early, late = ours[0], ours[1]
    second[ends[early] - 1] = second[ends[late] - 1] = level.threshold + 1
    monkeypatch.setattr(study_flips, "scores_of", lambda bundle, data: first if data is scripted else second)
    other = Recording.open(scripted.path)
    tokens = [replace(one, ids=one.ids.copy()) for one in other.tokens()]
    # and in one of the two traces the text parts before that decision
    tokens[late].ids[0] += 1
    monkeypatch.setattr(other, "tokens", lambda: iter(tokens))

    found = study_flips.compare(scripted, other, bundle)

    risk = f"{level.risk:g}"
    assert found.parted == 1
    assert found.flipped[risk] == 1
    assert found.exits[risk] == 2
    assert found.largest == 2.0
    assert study_flips.compare(scripted, scripted, None).parted == 0


@pytest.mark.skipif(not (shipped.MODEL / "model.safetensors").exists(), reason="no shipped model")
def test_a_study_that_certifies_nothing_has_the_rest_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "study", shipped.MODEL, "--recipe", shipped.BUNDLE / "recipe.toml", "--limit", 4, "--timed", 2,
        "--suite", shipped.PROBLEMS / "test.jsonl", "--compared", 2, "--concurrency", 2,
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip

    def run() -> dict[str, Any]:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.exception
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    found = run()

    assert found["failed"]["certificates"].startswith("4 problems are too few")
    full, half, quarter = found["speed"]
    assert full["disagree"] == 0.0
    assert full["thinking"] >= half["thinking"] >= quarter["thinking"]
    (alone,) = found["flips"]
    assert (alone["batch"], alone["exits"]) == (1, {})
    assert 1 <= alone["requests"] <= 2
    page = Path(found["page"]).read_text()
    assert "4 problems are too few" in page
    assert "What did LYNX publish?" in page
    # when it is called again, nothing is measured again
    monkeypatch.setattr(workflow, "speed", None)
    monkeypatch.setattr(workflow, "record", None)
    assert run() == found


@pytest.mark.slow
@pytest.mark.skipif(not (shipped.MODEL / "model.safetensors").exists(), reason="no shipped model")
def test_speed_is_compared_with_a_budget_of_equal_risk(tmp_path: Path) -> None:
    words = (
        "study", shipped.MODEL, "--recipe", shipped.BUNDLE / "recipe.toml", "--limit", 150, "--timed", 8,
        "--suite", shipped.PROBLEMS / "calibration.jsonl", "--compared", 2, "--concurrency", 16,
        "--risk", 0.3, "--out", tmp_path / "out", "--json", "--yes",
    )  # fmt: skip

    done = CliRunner().invoke(app, [str(word) for word in words])

    assert done.exit_code == 0, done.exception
    rows = {row["setting"]: row for row in json.loads(done.stdout)["speed"]}
    budget = Bundle.load(tmp_path / "out" / "budget")
    (level,) = budget.policy.pooled
    assert budget.policy.rule is not None
    assert budget.policy.rule.name == "budget"
    assert level.risk == 0.3
    assert level.threshold < np.inf
    full, served = rows["full thinking"], rows["budget certified at 30%"]
    assert level.threshold <= served["thinking"] < full["thinking"]
    assert rows["certified 30%"]["thinking"] < full["thinking"]
