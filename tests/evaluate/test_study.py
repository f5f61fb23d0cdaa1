"""`lynxstop study`: suites, flips, budgets of equal cost, and one small study to its page."""

import gc
import json
import re
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.recipe import Recipe, SamplingOptions
from lynxstop.cli import app
from lynxstop.collect.options import CollectOptions
from lynxstop.errors import ConfigError, DataError, ModelError
from lynxstop.grading.graders import grader_named, same_of
from lynxstop.grading.grading import Grade
from lynxstop.recordings.hub import HubName
from lynxstop.recordings.problems import Problem, load_problems
from lynxstop.recordings.storage import Recording
from lynxstop.replay.exits import read_exits
from lynxstop.report.page import Page
from lynxstop_research import study as workflow
from lynxstop_research import study_flips, study_speed
from lynxstop_research import study_page as study_pages
from lynxstop_research.study import Study, StudyOptions, shuffled, study
from lynxstop_research.study_page import study_page
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


TRANSFER, FLIPS = workflow._Work.transfer, workflow._Work.flips


class Stubbed:
    """A study whose parts are counted and not measured; those named in `broken` fail."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.measured, self.broken = folder, list[str](), set[str]()
        self.options = StudyOptions(transfers=["gpqa", "csqa"])
        made = SimpleNamespace(bundle=Bundle.load(shipped.BUNDLE))
        monkeypatch.setattr(workflow, "certify", lambda *given, **named: made)
        for name in ("rules", "speed", "flips", "transfer"):
            monkeypatch.setattr(workflow._Work, name, self.part(name))

    def part(self, name: str) -> Any:
        def make(_: object, *suite: str) -> list[dict[str, str]]:
            title = " to ".join([name, *suite])
            self.measured.append(title)
            if title in self.broken:
                raise DataError(f"{title} is broken.")
            return [{"of": title}]

        return make

    def run(self, model: Path = shipped.MODEL) -> Study:
        self.measured.clear()
        return study(str(model), str(shipped.PROBLEMS / "test.jsonl"), self.folder, options=self.options)


@pytest.fixture
def stubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stubbed:
    return Stubbed(tmp_path / "out", monkeypatch)


def test_a_suite_that_cannot_be_had_costs_no_other_and_is_tried_again(stubbed: Stubbed) -> None:
    # One of the suites is gated.
    stubbed.broken = {"transfer to gpqa"}
    found = stubbed.run()

    assert found.transfers == [{"of": "transfer to csqa"}]
    assert found.failed == {"transfer to gpqa": "transfer to gpqa is broken."}
    assert len(stubbed.measured) == 5

    stubbed.broken = set()
    assert stubbed.run().transfers == [{"of": "transfer to gpqa"}, {"of": "transfer to csqa"}]
    assert stubbed.measured == ["transfer to gpqa"]


def test_a_file_is_graded_as_asked_beside_a_suite_with_a_grader_of_its_own(
    stubbed: Stubbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a certificate on multiple choice, carried to a file of mathematics and to another suite
    suites = {"gpqa": ("hf://gpqa/test", "choice"), "csqa": ("hf://csqa/test", "choice")}
    file = str(shipped.PROBLEMS / "test.jsonl")

    def load(name: str, _: object) -> Any:
        problems = [Problem(str(number), f"{name}, {number}?") for number in range(4)]
        return problems, *suites.get(name, (name, None))

    monkeypatch.setattr(workflow, "load_suite", load)
    graders: dict[Path, Any] = {}

    def recorded(work: Any, place: Path, some: object, *, grader: Any) -> None:
        graders[place.parent] = grader
        raise DataError("Enough.")

    monkeypatch.setattr(workflow._Work, "_recorded", recorded)
    monkeypatch.setattr(workflow._Work, "transfer", TRANSFER)
    options = StudyOptions(transfers=[file, "csqa"], collect=CollectOptions(grader="math"))
    study(str(shipped.MODEL), "gpqa", tmp_path / "out", options=options)

    assert list(graders.values()) == ["math", "choice"]


def test_arguments_for_an_engine_that_takes_none_are_refused(tmp_path: Path) -> None:
    words = ["study", str(shipped.MODEL), "--suite", str(shipped.PROBLEMS / "test.jsonl"), "--argument"]
    done = CliRunner().invoke(app, [*words, "max_model_len=9", "--out", str(tmp_path / "out")])

    assert isinstance(done.exception, ConfigError)
    assert "takes no further arguments: max_model_len" in str(done.exception)


@pytest.mark.parametrize("damage", [b"", b'{"key": "', b"[]", b'{"rows": []}'])
def test_a_part_whose_file_is_damaged_is_measured_again(stubbed: Stubbed, damage: bytes) -> None:
    first = stubbed.run()
    (stubbed.folder / "parts" / "speed.json").write_bytes(damage)

    assert stubbed.run().speed == first.speed
    assert stubbed.measured == ["speed"]


def test_another_model_in_the_same_folder_is_measured(stubbed: Stubbed, tmp_path: Path) -> None:
    stubbed.run()
    other = Path(shutil.copytree(shipped.MODEL, tmp_path / "model"))
    (other / "chat_template.jinja").write_text("another")
    stubbed.run(other)

    assert "speed" in stubbed.measured


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ({"timed": 3}, {"speed"}),
        ({"batches": (2,)}, {"flips"}),
        ({"compared": 3}, {"speed", "flips"}),
        ({"transfer_problems": 10}, {"transfer to FILE", "transfer to csqa"}),
        ({"collect": CollectOptions(grader="choice")}, {"transfer to FILE"}),
        ({"transfers": ("csqa",)}, set()),
        ({"confidence": 0.9}, {"rules", "speed", "flips", "transfer to FILE", "transfer to csqa"}),
        ("content", {"transfer to FILE"}),
    ],
)
def test_what_has_changed_is_measured_again_and_no_more(
    stubbed: Stubbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: Any, again: set[str]
) -> None:
    # given a suite with a grader of its own, carried to another one and to a file
    problems = load_problems(shipped.PROBLEMS / "test.jsonl")
    suites = {"gpqa": "choice", "csqa": "choice"}
    monkeypatch.setattr(workflow, "load_suite", lambda name, _: (problems, name, suites.get(name)))
    file = tmp_path / "file.jsonl"
    file.write_text('{"id": "a", "prompt": "1?"}\n')
    options = StudyOptions(transfers=(str(file), "csqa"))

    def measured(options: StudyOptions) -> set[str]:
        stubbed.measured.clear()
        study(str(shipped.MODEL), "gpqa", stubbed.folder, options=options)
        return {one.replace(str(file), "FILE") for one in stubbed.measured}

    assert len(measured(options)) == 5
    assert measured(options) == set()
    if changed == "content":
        file.write_text('{"id": "b", "prompt": "2?"}\n')
        assert measured(options) == again
    else:
        assert measured(replace(options, **changed)) == again


def test_other_requests_to_compare_are_recorded_beside_the_first(
    stubbed: Stubbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: dict[Path, int] = {}

    def recorded(work: Any, place: Path, some: list[Problem], **changed: Any) -> None:
        assert places.setdefault(place, len(some)) == len(some)

    monkeypatch.setattr(workflow._Work, "_recorded", recorded)
    monkeypatch.setattr(workflow._Work, "flips", FLIPS)
    monkeypatch.setattr(study_flips, "compare", lambda *given: SimpleNamespace(row=dict))
    for count in (2, 3):
        stubbed.options = StudyOptions(compared=count)
        stubbed.run()

    assert sorted(places.values()) == [2, 2, 3, 3]


def test_a_grader_that_is_a_function_is_the_same_in_another_process(stubbed: Stubbed) -> None:
    def graded() -> Any:
        def grade(text: str, gold: str | None) -> Grade:
            return Grade(text, "parsed", None)

        return grade

    for number in range(2):
        stubbed.options = StudyOptions(collect=CollectOptions(grader=graded()))
        stubbed.run()
        assert bool(stubbed.measured) is (number == 0)


def test_answers_that_cannot_be_read_differ_and_choices_compare_as_choices() -> None:
    nothing, other = Grade("", "unparsed", False), Grade("", "unparsed", False)
    full, same = Grade("B", "parsed", None), Grade("(B) the second", "parsed", None)
    ended: Any = SimpleNamespace(thinking_tokens=1, output_ids=[1])
    setting = study_speed._Setting("s", seconds=[1.0], done=[ended])

    def differ(one: Grade, reference: Grade, grader: str) -> float:
        compare = same_of(grader_named(grader))
        found: float = study_speed._row(setting, setting, [one], [reference], compare)["disagree"]
        return found

    assert differ(nothing, nothing, "math") == 0.0
    assert differ(nothing, other, "math") == 1.0
    assert differ(same, full, "choice") == 0.0


def test_what_was_certified_is_not_lost_to_an_error(
    stubbed: Stubbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object, **named: object) -> None:
        raise DataError("A shard is damaged.")

    monkeypatch.setattr(workflow, "certify", fails)
    assert stubbed.run().failed["certificates"] == "A shard is damaged."
    shutil.copytree(shipped.BUNDLE, stubbed.folder / "bundle")
    with pytest.raises(DataError, match="A shard is damaged"):
        stubbed.run()


def test_what_cannot_be_had_is_said_before_anything_is_recorded(stubbed: Stubbed, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        stubbed.run(tmp_path / "nothing")
    for name in ("maths", str(tmp_path / "none.jsonl")):
        stubbed.options = StudyOptions(transfers=[name])
        with pytest.raises(DataError):
            stubbed.run()

    assert stubbed.measured == []


def test_halves_of_a_sorted_file_are_alike_and_share_no_prompt() -> None:
    problems = [Problem(str(number), f"Year {number // 2}") for number in range(200)]

    found = [int(str(problem.prompt).split()[1]) for problem in shuffled(problems)]

    assert sorted(found) == list(range(100))
    assert abs(sum(found[:50]) - sum(found[50:])) < 1_000
    assert shuffled(problems[::-1])[0].prompt == shuffled(problems)[0].prompt


def test_what_a_transfer_shares_with_the_study_is_left_out_and_numbers_are_no_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given two suites that number their problems alike, and share a prompt
    suites = {"gpqa": ["1+1?", "2+2?", "3+3?"], "csqa": ["4+4?", "2+2?", "5+5?", "6+6?"]}

    def load(name: str, _: object) -> Any:
        return [Problem(str(number), text) for number, text in enumerate(suites[name])], name, "math"

    def certify(*given: object, **named: object) -> Any:
        return SimpleNamespace(bundle=Bundle.load(shipped.BUNDLE))

    recorded: list[Problem] = []

    def record(work: Any, place: Path, some: list[Problem], **changed: object) -> None:
        recorded.extend(some)
        if place.name == "test":
            raise DataError("Enough.")

    monkeypatch.setattr(workflow, "load_suite", load)
    monkeypatch.setattr(workflow, "certify", certify)
    monkeypatch.setattr(workflow._Work, "_recorded", record)
    for name in ("rules", "speed", "flips"):
        monkeypatch.setattr(workflow._Work, name, lambda work: [])
    told: list[str] = []
    options = StudyOptions(transfers=["csqa"])
    study(str(shipped.MODEL), "gpqa", tmp_path, options=options, tell=told.append)

    names = {one.prompt: one.id for one in recorded}
    assert set(names) == {"4+4?", "5+5?", "6+6?"}
    assert names["6+6?"] == "3"
    assert not {"0", "2"} & set(names.values())
    assert "1 problems of csqa are in gpqa, too, and are left out." in told


def test_nothing_on_the_page_is_markup_or_from_elsewhere() -> None:
    found = Study("<script>alert(1)</script>", "<b>", "<i>x.jsonl", 4, StudyOptions())
    found.failed["certificates"] = "<img src=x>"
    text = study_page(found, "lynxstop study '<script>'")

    assert not re.search(r"<(script|b|i|img)\b", text)
    assert not re.search(r"(?:src|href)=|@import|url\(", text.replace("src=x&gt;", ""))


def test_published_figures_stand_beside_this_models_and_counts_have_intervals() -> None:
    row = {"risk": 0.05, "saved": 0.4, "accuracy_full": 0.9, "accuracy_early": 0.89}
    found = Study("m", "gsm8k", "hf://gsm8k/test", 4, StudyOptions())
    found.made = SimpleNamespace(held_out=[row])  # type: ignore[assignment]
    found.speed = [
        {
            "setting": "certified 5%", "requests": 4, "requests_per_second": 1.0, "against_full": 2.0,
            "against_full_low": 2.0, "against_full_high": 2.0, "thinking": 1.0, "generated": 1.0,
            "accuracy": None, "disagree": 0.25,
        }
    ]  # fmt: skip
    page = Page("m")
    study_pages._speed(page, found.speed)
    study_pages._published(page, found)

    assert "<td>1 of 4 (0.6% to 80.6%)</td>" in page.render()
    ours, theirs = page.render().index("gsm8k, this model, certified at 5%"), page.render().index("MATH-500")
    assert "<td>40.0%</td><td>90.0% to 89.0%</td>" in page.render()[ours:theirs]


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
    full, again, half, quarter = found["speed"]
    assert full["disagree"] == 0.0
    assert again["setting"] == "full thinking, other random numbers"
    assert again["thinking"] != full["thinking"]
    assert full["thinking"] > half["thinking"] > quarter["thinking"]
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


@pytest.mark.skipif(not (shipped.MODEL / "model.safetensors").exists(), reason="no shipped model")
def test_one_model_at_a_time_takes_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    load = study_speed._open

    def loading(*given: Any) -> Any:
        gc.collect()
        assert [ref for ref in alive if ref() is not None] == []
        source: Any = load(*given)
        alive.append(weakref.ref(source.engine.model))
        return source

    monkeypatch.setattr(study_speed, "_open", loading)
    recipe = Recipe(sampling=SamplingOptions(temperature=0.0, max_tokens=60, answer_tokens=8))
    problems = load_problems(shipped.PROBLEMS / "test.jsonl")[:2]
    options = CollectOptions(batch_size=2)
    rows = study_speed.speed(str(shipped.MODEL), recipe, None, problems, [20, 10], options)

    assert len(alive) == 3
    assert [row["setting"] for row in rows] == [
        "full thinking",
        "budget of 20 tokens",
        "budget of 10 tokens",
    ]


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
