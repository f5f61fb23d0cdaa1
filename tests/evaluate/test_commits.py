"""A study reads each data set at one commit: the real client, and a small server for the Hub."""

import json
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.errors import DataError
from lynxstop.recordings.hub import at_commit
from lynxstop.recordings.problems import load_problems
from lynxstop_research import study as workflow
from lynxstop_research.shift import Delay
from lynxstop_research.study import Study, StudyOptions, study
from lynxstop_research.study_page import study_page
from tests.support.small_hub import Hub, ask, serve

datasets = pytest.importorskip("datasets")
OLD, NEW = "1" * 40, "2" * 40
SUITE, OTHER = "hf://some/sums@main/train", "hf://some/products@main/train"


def commit(*sums: str) -> dict[str, bytes]:
    rows = [json.dumps({"prompt": f"{one}?", "answer": "2"}) + "\n" for one in sums]
    return {"README.md": b"", "train.jsonl": "".join(rows).encode()}


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    """One address for all tests: some versions of the library keep the first that they see."""
    made = serve(Hub())
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def hub(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """A Hub with two data sets, of one commit each."""
    found = Hub(
        datasets={"some/sums": {OLD: commit("1+1", "2+0")}, "some/products": {OLD: commit("1*2", "2*1")}}
    )
    url = ask(server, monkeypatch, found)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", url)
    monkeypatch.setattr(
        "datasets.config.HUB_DATASETS_URL", url + "/datasets/{repo_id}/resolve/{revision}/{path}"
    )
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.USE_PARQUET_EXPORT", False)
    return found


def prompts(source: str) -> list[Any]:
    return [problem.prompt for problem in load_problems(source)]


def test_a_study_reads_one_commit_and_names_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a study that measures nothing, on a branch and carried to another
    read: list[Any] = []

    def certify(model: str, problems: Any, folder: Path, **named: object) -> Any:
        read.append(sorted(problem.prompt for problem in problems))
        return SimpleNamespace(bundle=Bundle.load(shipped.BUNDLE), report=dict)

    def recorded(work: Any, place: Path, problems: Any, **changed: object) -> None:
        read.append([problem.prompt for problem in problems])

    monkeypatch.setattr(workflow, "certify", certify)
    for name in ("rules", "speed", "flips"):
        monkeypatch.setattr(workflow._Work, name, lambda work: [])
    monkeypatch.setattr(workflow._Work, "_recorded", recorded)
    monkeypatch.setattr(workflow._Work, "_scored", lambda work, data: None)
    monkeypatch.setattr(workflow, "check_unseen", lambda bundle, data: None)
    monkeypatch.setattr(workflow, "Recording", SimpleNamespace(open=lambda place: None))
    monkeypatch.setattr(workflow, "shift", lambda *given, **named: Delay(named["confidence"], 0.0))

    def run(size: int) -> Study:
        read.clear()
        options = StudyOptions(confidence=0.9, transfers=[OTHER], transfer_problems=size)
        return study(str(shipped.MODEL), SUITE, tmp_path / "out", options=options)

    named = f"hf://some/sums@{OLD}/train"
    for size in (2, 3):
        # when it is called again after both branches have moved on
        found = run(size)
        hub.datasets["some/sums"][NEW] = commit("1+1", "3-1", "4-2")
        hub.datasets["some/products"][NEW] = commit("1*2", "2*1", "2/1")
        # then every part has read the first commit, and says so
        assert read[0] == ["1+1?", "2+0?"]
        assert sorted([*read[1], *read[2]]) == ["1*2?", "2*1?"]
        assert found.report()["suite"] == found.source == named
        assert {row["suite"] for row in found.transfers} == {f"hf://some/products@{OLD}/train"}
        # and is calibrated again at the confidence that was asked for
        assert {row["share"] for row in found.transfers} == {0.9}
    assert prompts(SUITE) == ["1+1?", "3-1?", "4-2?"]
    assert named in study_page(Study("m", "s", found.source, 1, StudyOptions()), "lynxstop study m")


def test_what_names_a_commit_or_has_none_stays_as_it_is(hub: Hub, tmp_path: Path) -> None:
    fixed = f"hf://some/sums@{OLD}:default/train[:1]"
    assert at_commit(fixed) == fixed
    assert not hub.requests
    (tmp_path / "train.jsonl").write_text('{"prompt": "1?"}\n')
    assert at_commit(f"hf://{tmp_path}/train") == f"hf://{tmp_path}/train"
    assert at_commit("hf://some/sums:default/train[:1]") == fixed


def test_without_the_hub_no_other_commit_is_taken_for_the_one_asked_for(hub: Hub) -> None:
    # given what is newest in the cache of `datasets`, which it takes when the Hub does not answer
    hub.datasets["some/sums"][NEW] = commit("3-1")
    assert prompts(f"hf://some/sums@{NEW}/train") == ["3-1?"]
    hub.datasets.clear()

    assert prompts(f"hf://some/sums@{NEW}/train") == ["3-1?"]
    with pytest.raises(DataError, match=f"@{OLD}/train cannot be read.*another commit of it, {NEW}"):
        load_problems(f"hf://some/sums@{OLD}/train")


def test_a_connection_that_breaks_is_one_error(hub: Hub) -> None:
    hub.hangs_up = True
    with pytest.raises(DataError, match="cannot be read"):
        load_problems(SUITE)


def test_a_damaged_list_of_commits_is_said(tmp_path: Path) -> None:
    (tmp_path / "revisions.json").write_text("[]")
    with pytest.raises(DataError, match="damaged"):
        study(str(shipped.MODEL), SUITE, tmp_path)
