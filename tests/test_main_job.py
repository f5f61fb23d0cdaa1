"""The whole way through the command line, on the shipped model: collect, train, calibrate, run, evaluate."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.cli import app
from lynxstop.errors import (
    ConfigError,
    DataError,
    FingerprintError,
    LynxstopError,
    ModelError,
    StepError,
    TokenizerError,
)

RECIPE = shipped.BUNDLE / "recipe.toml"


def call(*arguments: object) -> Any:
    """Run a command in process; return its JSON, or raise what it raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, LynxstopError):
        raise result.exception
    assert result.exit_code == 0, (result.exception, result.stderr)
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def held_out() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shipped.PROBLEMS / "test.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded data of three splits and a calibrated bundle, all made by the commands."""
    folder = tmp_path_factory.mktemp("work")
    for split, size in (("train", 100), ("calibration", 100), ("test", 40)):
        problems = shipped.PROBLEMS / f"{split}.jsonl"
        call("collect", shipped.MODEL, problems, folder / split, "--recipe", RECIPE, "--limit", size)
    call("train", folder / "train", folder / "bundle", "--layers", "3,4")
    call("calibrate", folder / "bundle", folder / "calibration", "--risk", 0.1, "--risk", 0.001)
    return folder


def test_collected_traces_answer_and_have_cues(work: Path) -> None:
    found = call("inspect", work / "train", "--json")

    assert found["traces"] == found["problems"] == 100
    assert found["cues"] > 300


def test_calibration_certifies_what_it_can_and_refuses_the_rest(work: Path) -> None:
    levels = {level["risk"]: level for level in call("inspect", work / "bundle", "--json")["levels"]}

    assert math.isfinite(levels[0.1]["threshold"])
    assert levels[0.001]["threshold"] is None  # 100 problems cannot show a risk of 0.1%


def test_the_certificate_verifies_without_the_model(work: Path) -> None:
    assert call("verify", work / "bundle", "--json")["holds"] is True


def test_replay_saves_tokens_within_the_risk(work: Path) -> None:
    levels = call("evaluate", work / "test", "--bundle", work / "bundle", "--json")["levels"]

    never, some = levels
    assert never["exits"] == never["saved"] == never["disagree"] == 0
    assert some["exits"] > 20
    assert 0.3 < some["saved"] <= some["oracle_saved"] + 0.1
    assert some["disagree"] <= 8


def test_live_decisions_equal_replay(work: Path) -> None:
    page = work / "levels.html"
    replayed = call("evaluate", work / "test", "--bundle", work / "bundle", "--report", page, "--json")[
        "levels"
    ][1]
    assert f"<td>{replayed['exits']}</td>" in page.read_text()

    problems = held_out()[:40]
    prompts = work / "prompts.jsonl"
    # A recorded trace is named problem#sample, and its name keys its random numbers.
    prompts.write_text("".join(json.dumps(p | {"id": p["id"] + "#0"}) + "\n" for p in problems))
    live = call(
        "run",
        shipped.MODEL,
        work / "bundle",
        "--problems",
        prompts,
        "--risk",
        0.1,
        "--batch-size",
        7,
        "--json",
    )["answers"]

    assert sum(answer["thinking_tokens"] for answer in live) == replayed["thinking_tokens_early"]
    assert sum(answer["exit"] is not None for answer in live) == replayed["exits"]
    right = sum(answer["answer"] == p["answer"] for answer, p in zip(live, problems, strict=True))
    assert right / 40 == pytest.approx(replayed["accuracy_early"])


def test_one_prompt_streams_and_says_where_it_stopped(work: Path) -> None:
    prompt = held_out()[0]["prompt"]

    text = call("run", shipped.MODEL, work / "bundle", prompt, "--risk", 0.1)
    full = call("run", shipped.MODEL, work / "bundle", prompt, "--risk", "off")

    assert "</think>" in text
    assert r"\boxed{" in text
    assert len(text) < len(full)
    cut = text.index("\n</think>")
    assert full.startswith(text[:cut])


def test_shadow_mode_reports_but_never_stops(work: Path) -> None:
    prompt = held_out()[0]["prompt"]

    shadow = call("run", shipped.MODEL, work / "bundle", prompt, "--risk", 0.1, "--shadow", "--json")
    full = call("run", shipped.MODEL, work / "bundle", prompt, "--risk", "off", "--json")

    assert shadow["answers"][0]["exit"]["reason"] == "score"
    assert shadow["answers"][0]["text"] == full["answers"][0]["text"]


def test_another_temperature_is_outside_the_certificate(work: Path) -> None:
    prompt = held_out()[0]["prompt"]
    asked = ("run", shipped.MODEL, work / "bundle", prompt, "--risk", 0.1, "--temperature", 0.5, "--json")

    thinks, stops = call(*asked), call(*asked, "--uncertified", "stop")

    assert thinks["departures"] == stops["departures"] == ["temperature"]
    assert thinks["answers"][0]["exit"] is None
    assert stops["answers"][0]["exit"]["reason"] == "score"


def test_an_uncertified_risk_lists_the_certified_ones(work: Path) -> None:
    with pytest.raises(ConfigError, match=r"certified levels: 0\.001, 0\.1"):
        call("run", shipped.MODEL, work / "bundle", "1 + 1", "--risk", 0.2)


def test_calibrating_on_training_problems_is_refused(work: Path) -> None:
    before = (work / "bundle" / "policy.json").read_text()

    with pytest.raises(LynxstopError, match="training"):
        call("calibrate", work / "bundle", work / "train", "--risk", 0.1)

    assert (work / "bundle" / "policy.json").read_text() == before


def test_steps_out_of_order_name_the_missing_one(work: Path, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="lynxstop collect"):
        call("train", tmp_path / "nothing", tmp_path / "bundle")
    with pytest.raises(StepError, match="lynxstop train"):
        call("calibrate", tmp_path / "nothing", work / "calibration")
    call("train", work / "train", tmp_path / "fresh", "--layers", "4")
    with pytest.raises(StepError, match="lynxstop calibrate"):
        call("evaluate", work / "test", "--bundle", tmp_path / "fresh")


def copy_of_model(folder: Path) -> Path:
    folder.mkdir()
    for file in shipped.MODEL.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_bundle_for_another_model_is_refused(work: Path, tmp_path: Path) -> None:
    other = copy_of_model(tmp_path / "other")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(bytes(weights))

    with pytest.raises(FingerprintError, match="another model: weights differ"):
        call("run", other, work / "bundle", "1 + 1")


def test_a_model_without_a_thinking_block_is_refused(tmp_path: Path) -> None:
    plain = copy_of_model(tmp_path / "plain")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        text = (plain / name).read_text()
        (plain / name).write_text(text.replace("<think>", "<plan>").replace("</think>", "</plan>"))

    with pytest.raises(ModelError, match="no thinking block"):
        call("collect", plain, shipped.PROBLEMS / "test.jsonl", tmp_path / "out", "--limit", 1)


def test_a_cue_that_the_tokenizer_cannot_write_is_refused(tmp_path: Path) -> None:
    model = copy_of_model(tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {
        token.replace("Z", "\u0100").replace("z", "\u0101"): number
        for token, number in tokenizer["model"]["vocab"].items()
    }
    tokenizer["model"]["merges"] = [
        pair for pair in tokenizer["model"]["merges"] if "z" not in "".join(pair).lower()
    ]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[cues]\nwords = ["zut"]\n')

    with pytest.raises(TokenizerError, match="zut"):
        call(
            "collect",
            model,
            shipped.PROBLEMS / "test.jsonl",
            tmp_path / "out",
            "--limit",
            1,
            "--recipe",
            recipe,
        )

    assert not (tmp_path / "out").exists()


def test_a_broken_line_of_problems_is_named(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"id": "a", "prompt": "1 + 1"}\n{"id": "b", "prompt": \n')

    with pytest.raises(DataError, match="line 2"):
        call("collect", shipped.MODEL, problems, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_rules_are_compared_on_recorded_traces(work: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", work / "calibration", "--bundle", work / "bundle", "--risk", 0.2)
    names = (
        "--rules",
        "lynx,deer,combined,loop",
        "--csv",
        tmp_path / "a.csv",
        "--report",
        tmp_path / "a.html",
    )

    found = call(*arguments, *names, "--json")

    rows = {row["rule"]: row for row in found["rules"]}
    assert set(rows) == {"lynx", "deer", "combined", "loop"}
    assert rows["deer"]["tokens_net"] >= rows["deer"]["tokens_gross"]
    assert (tmp_path / "a.csv").read_text().count("\n") == 6  # a header, four rules, DEER as published
    assert "keeps accuracy at the fewest tokens?" in (tmp_path / "a.html").read_text()


def test_a_rule_is_trained_certified_and_served_as_replayed(work: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    call("train", work / "train", bundle, "--layers", "4", "--rule", "combined")
    call("calibrate", bundle, work / "calibration", "--risk", 0.1)
    (replayed,) = call("evaluate", work / "test", "--bundle", bundle, "--json")["levels"]

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(p | {"id": p["id"] + "#0"}) + "\n" for p in held_out()[:40]))
    live = call("run", shipped.MODEL, bundle, "--problems", prompts, "--risk", 0.1, "--json")["answers"]

    assert replayed["exits"] > 20
    assert sum(answer["exit"] is not None for answer in live) == replayed["exits"]
    assert sum(answer["thinking_tokens"] for answer in live) == replayed["thinking_tokens_early"]


def test_a_rule_that_needs_trial_answers_is_not_served(work: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trial answers"):
        call("train", work / "train", tmp_path / "bundle", "--rule", "deer")

    assert not (tmp_path / "bundle").exists()


def test_recorded_exits_are_exported_in_groups(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "groups.jsonl"

    found = call("export", shipped.MODEL, work / "test", shipped.PROBLEMS / "test.jsonl", out, "--json")

    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == found["exits"] > 100
    assert {row["reward"] for row in rows} >= {0.0, 1.0, 0.5}
    assert all(row["completion"][0]["content"].count("</think>") == 1 for row in rows)


def shown(*arguments: object) -> str:
    """Run a command as people do; return all that it prints, without the breaks of narrow columns."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.exception, result.stderr)
    return " ".join((result.stdout + result.stderr).replace("│", " ").split())


def test_people_read_what_json_says(work: Path, tmp_path: Path) -> None:
    bundle = work / "bundle"
    found = call("inspect", bundle, "--json")
    level = next(one for one in found["levels"] if one["risk"] == 0.1)
    text = shown("inspect", bundle)
    assert f"{level['threshold']:.4f}" in text
    assert "never exit" in text
    assert "Certified levels" in text
    assert f"traces {call('inspect', work / 'test', '--json')['traces']}" in shown("inspect", work / "test")

    table = tmp_path / "levels.csv"
    text = shown("evaluate", work / "test", "--bundle", bundle, "--csv", table)
    row = call("evaluate", work / "test", "--bundle", bundle, "--json")["levels"][1]
    assert f"{row['saved']:.1%}" in text
    assert f"{row['disagree']} ({row['disagree'] / 40:.1%})" in text
    assert table.read_text().splitlines()[2].startswith("0.1,")

    recipe = tmp_path / "recipe.toml"
    text = shown("recipe", shipped.MODEL, "--out", recipe, "--check", "--check-tokens", 40)
    assert "Three prompts" in text
    assert "Written to" in text
    assert recipe.exists()
