"""`lynxstop certify`: one command to a certified bundle, and honest refusals."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Guards
from lynxstop.calibration.plan import smallest_size
from lynxstop.cli import app
from lynxstop.cli import certify as command
from lynxstop.collect import partial
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from lynxstop.collect.sources import folder_of
from lynxstop.errors import ConfigError, DataError, ModelError
from lynxstop.recordings.meta_file import read_meta
from lynxstop.recordings.problems import Problem
from lynxstop.recordings.prompts import content_id
from lynxstop.recordings.storage import Recording
from lynxstop.recordings.store import store_at
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from lynxstop.workflows import certify as workflow
from lynxstop.workflows.certify_plan import SHARES, Estimate, floor, outlook, require_enough, split_problems
from lynxstop.workflows.draft_recipe import draft_recipe
from lynxstop.workflows.settle_recipe import settle_recipe
from lynxstop.workflows.verify_bundle import verify_path
from tests.support.scripted import SAMPLING, ScriptedSource, problems
from tests.support.servers import eventually, program, serving

RISK = "30%"


def written(folder: Path, count: int) -> Path:
    """Problems without ids or answers."""
    lines = (shipped.PROBLEMS / "calibration.jsonl").read_text().splitlines()[:count]
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps({"question": json.loads(line)["prompt"]}) + "\n" for line in lines))
    return path


def run(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["certify", *map(str, words), "--json"])
    assert done.exit_code == 0, done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_model_and_prompts_to_a_bundle_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems, out = written(tmp_path, 75), tmp_path / "out"
    words = (shipped.MODEL, problems, "--risk", RISK, "--out", out)
    # given a drafted recipe that was changed, and a run that is interrupted after the first problems
    out.mkdir()
    (out / "recipe.toml").write_text(draft_recipe(shipped.MODEL).as_toml() + "\n[guards]\nbudget = 250\n")
    calls = []

    def interrupted(*arguments: Any, **options: Any) -> Recording:
        calls.append(arguments[2].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return collect(*arguments, **options)

    monkeypatch.setattr(workflow, "collect", interrupted)
    stopped = CliRunner().invoke(app, ["certify", *map(str, words)])
    assert calls == ["train", "train"], (stopped.output, stopped.exc_info)
    assert stopped.exit_code != 0
    kept = Recording.open(out / "recorded" / "train").problem_ids
    assert len(kept) == workflow.FIRST
    # when it is given again, then it goes on with what is kept, to a certificate that verifies
    found = run(*words)
    assert calls == ["train", "train", "train", "calibration", "test"]
    assert Recording.open(out / "recorded" / "train").problem_ids[: workflow.FIRST] == kept
    assert verify_path(out / "bundle").holds
    (level,) = found["levels"]
    assert level["n"] == found["problems"]["calibration"]
    assert found["held_out"][0]["n_problems"] == found["problems"]["test"]
    assert found["tried"] == 1
    assert str(out / "bundle") in found["serve"]
    page = (out / "report.html").read_text()
    assert level["promise"] in page
    assert found["serve"] in page
    assert "<svg" in page
    assert Bundle.load(out / "bundle").policy.budget == 250


def test_too_few_problems_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["certify", "nosuch", str(written(tmp_path, 40)), "--out", str(tmp_path)])
    assert isinstance(done.exception, DataError)
    assert "40 problems are too few" in done.exception.message
    assert "even without a single loss" in done.exception.message
    assert "Give about" in str(done.exception.hint)


def test_recordings_of_problems_that_are_not_given_are_refused(tmp_path: Path) -> None:
    # given a folder in which another file was begun
    collect(ScriptedSource(), problems(20), tmp_path / "recorded" / "train", SAMPLING, CollectOptions())
    others = [Problem(str(number), f"another {number}") for number in range(120)]
    # then a certificate on this file would be about both, and is not made
    with pytest.raises(DataError, match="20 problems that are not among those given"):
        workflow.certify(shipped.MODEL, others, tmp_path)
    with pytest.raises(ConfigError, match="recorded with other settings"):
        workflow.certify(shipped.MODEL, [*others, *problems(20)], tmp_path)


def test_arguments_of_the_engine_reach_it(tmp_path: Path) -> None:
    words = ["certify", str(shipped.MODEL), str(written(tmp_path, 200)), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--risk", "0.3", "--argument", "max_model_len=2048"])
    assert isinstance(done.exception, ConfigError)
    assert "transformers takes no further arguments: max_model_len" in done.exception.message


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_model_of_a_server_is_certified_through_it(tmp_path: Path) -> None:
    problems, out = tmp_path / "problems.jsonl", tmp_path / "out"
    rows = [{"prompt": f"{a} + {b} * {c}"} for a in range(2, 9) for b in range(2, 6) for c in range(2, 5)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(MockServer()) as address:
        found = run("toy", problems, "--base-url", address, "--risk", "40%", "--out", out)
    bundle = Bundle.load(out / "bundle")
    assert bundle.probe is None
    assert bundle.policy.rule is not None
    assert found["serve"] is None or f"proxy --upstream {address}" in found["serve"]


def kept(folder: Path) -> set[str]:
    """Problems whose traces are done, in finished parts and in one that was interrupted."""
    found: set[str] = set()
    for path in folder.glob("*/meta.json"):
        store = store_at(path.parent)
        meta = read_meta(store)
        shards = range(meta.instalments[-1].shards.stop)
        names = partial.ids(store, shards, meta.instalments[-1].key)
        found |= {name.partition("#")[0] for name in names}
        if list(path.parent.glob("traces-*")):
            found |= set(Recording.open(path.parent, partial=True).problem_ids)
    return found


@pytest.mark.timeout(300)
def test_signals_end_it_with_what_is_done_kept_and_it_goes_on(tmp_path: Path) -> None:
    # given a command of its own, in front of a slow server
    problems, out = tmp_path / "problems.jsonl", tmp_path / "out"
    rows = [{"prompt": f"{a} + {b} * {c}"} for a in range(2, 8) for b in range(2, 6) for c in range(2, 5)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = {content_id(row["prompt"]) for row in rows}
    server = MockServer()

    def asked() -> set[str]:
        bodies = [record.body.get("messages", []) for record in server.records]
        return {content_id(turns[0]["content"]) for turns in bodies if turns} & ids

    with serving(server) as address:
        words = ("certify", "toy", problems, "--base-url", address, "--risk", "40%", "--out", out)
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 0)):
            server.settings = MockSettings(delay=0.004 if number else 0)
            server.records.clear()
            before = kept(out / "recorded")
            with subprocess.Popen(program(*map(str, words)), stderr=subprocess.PIPE, text=True) as child:
                if number:
                    eventually(lambda: len(asked()) > 24 or child.poll() is not None)
                    child.send_signal(number)
                assert child.stderr is not None
                said = child.stderr.read()
            # when it gets a signal, then it keeps what is done, says so, and does none of it again
            assert child.returncode == status, said
            assert "Traceback" not in said
            assert ("traces are kept in " in said) is (number is not None)
            if before:
                assert f"\n{len(ids) - len(before)} traces are left to record" in said
            assert asked().isdisjoint(before)
            assert len(kept(out / "recorded")) > len(before)
    assert kept(out / "recorded") == ids
    assert verify_path(out / "bundle").holds


def test_a_model_with_a_hub_name_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        if name != "maker/reasoner":
            raise OSError("not found\nmore")
        return str(shipped.MODEL)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert folder_of("maker/reasoner") == shipped.MODEL
    with pytest.raises(ModelError, match="no model of this name: not found"):
        folder_of("maker/other")
    with pytest.raises(ModelError, match="no model folder here"):
        folder_of("here")
    assert asked == ["maker/reasoner", "maker/other"]


def test_hours_are_not_begun_without_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    long = Estimate(1000, 5000, 10**6, 0, 2 * command.LONG)
    with pytest.raises(ConfigError, match="hours") as caught:
        command.ask(long, yes=False)
    assert "--yes" in str(caught.value.hint)
    command.ask(long, yes=True)
    command.ask(long.of(10), yes=False)


def test_a_prompt_stays_in_its_part_when_problems_are_added() -> None:
    few = [Problem(f"a{i}", f"What is {i}?") for i in range(400)]
    more = [*(Problem(f"b{i}", f"What is {i}?") for i in range(300, 2000)), *few]
    before, after = split_problems(few), split_problems(more)
    for name in SHARES:
        assert {p.prompt for p in before[name]} <= {p.prompt for p in after[name]}
        assert len(after[name]) == pytest.approx(2000 * SHARES[name], rel=0.15)
    # a prompt under two ids is taken once
    assert sum(map(len, after.values())) == 2000


def test_spellings_of_one_prompt_are_in_one_part() -> None:
    problems = [Problem(f"{n}{i}", f"{n} is  {i}?") for i in range(100) for n in ("What", "what", "WHAT ")]
    parts = split_problems(problems)
    assert {problem.id[:4] for part in parts.values() for problem in part} == {"What"}
    assert sum(map(len, parts.values())) == 100


def test_levels_out_of_reach_leave_their_error_to_the_others() -> None:
    assert outlook(200, (0.05, 0.1), 0.95).risks == (0.05, 0.1)
    assert floor(0.05, (0.05, 0.1), 0.95) > smallest_size(0, 0.05, 0.05)
    some = outlook(50, (0.05, 0.1), 0.95)
    assert (some.risks, some.dropped) == ((0.1,), (0.05,))
    assert any("left out" in sentence for sentence in some.sentences())
    assert some.chances[0.1][0.01] == pytest.approx(outlook(50, (0.1,), 0.95).chances[0.1][0.01])
    # What is said to be enough is enough, with the error that the other levels share.
    (needed,) = re.findall(r"it takes ([\d,]+)", some.sentences()[-1])
    assert outlook(int(needed), (0.05, 0.1), 0.95).risks == (0.05, 0.1)
    assert outlook(int(needed) - 1, (0.05, 0.1), 0.95).risks == (0.1,)
    none = outlook(10, (0.05,), 0.95)
    parts: dict[str, list[Problem]] = {"train": [], "calibration": [], "test": []}
    with pytest.raises(DataError, match=r"no risk below 25\.9%") as caught:
        require_enough(parts, none)
    # then a higher risk is no remedy where too few are left to train on
    assert "--risk" not in str(caught.value.hint)
    parts["train"] = [Problem(str(number), "") for number in range(20)]
    with pytest.raises(DataError) as caught:
        require_enough(parts, none)
    assert "or --risk 26%" in str(caught.value.hint)


def test_the_recipe_is_the_shipped_one_or_drafted_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("lynxstop.testing.server.LENGTH", 4096)
    drafted = settle_recipe(tmp_path / "a", "mine", shipped.MODEL, None, told.append)
    known = settle_recipe(tmp_path / "b", "Qwen/Qwen3-8B", tmp_path / "none", None, told.append)
    with serving(MockServer()) as address:
        served = settle_recipe(tmp_path / "c", "toy", "toy", None, told.append, address)
    assert (served.probe.layers, served.sampling.max_tokens) == ((), 3072)
    again = settle_recipe(tmp_path / "a", "mine", shipped.MODEL, None, told.append)
    assert (drafted.probe.layers, drafted.sampling.temperature) == ((1, 2, 3, -1), 0.9)
    assert "# Look at this: " in (tmp_path / "a" / "recipe.toml").read_text()
    assert known.thinking.open
    assert again == drafted
    assert any("guess" in sentence for sentence in told)
    sources = [sentence for sentence in told if "Look at this" not in sentence]
    for sentence, words in zip(
        sources, ("drafted from", "shipped", "drafted for http", f"Recipe: {tmp_path}"), strict=True
    ):
        assert words in sentence
    # what is given is written down, and read again by a later call
    given = drafted.model_copy(update={"guards": Guards(budget=250)})
    assert settle_recipe(tmp_path / "d", "mine", shipped.MODEL, given, told.append) == given
    assert settle_recipe(tmp_path / "d", "mine", shipped.MODEL, None, told.append) == given


@pytest.mark.timeout(120)
def test_when_nothing_can_be_learnt_it_says_so_before_more_is_recorded(tmp_path: Path) -> None:
    # given a model that never checks itself
    problems, out = tmp_path / "problems.jsonl", tmp_path / "out"
    rows = [{"prompt": f"{a} + {b}"} for a in range(2, 10) for b in range(2, 12)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["certify", "toy", str(problems), "--risk", "40%", "--out", str(out), "--base-url"]
    with serving(MockServer(MockSettings(checks=0))) as address:
        done = CliRunner().invoke(app, [*words, address])
    assert isinstance(done.exception, DataError), done.exception
    assert "no cue" in done.exception.message
    assert "[cues]" in str(done.exception.hint)
    assert not (out / "recorded" / "calibration").exists()
