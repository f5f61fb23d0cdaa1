"""Appending: what is asked for and not there is added, and nothing else changes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lynxstop.cli import app
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from lynxstop.errors import ConfigError, DataError, StepError
from lynxstop.recordings.problems import Problem
from lynxstop.recordings.shards import names
from lynxstop.recordings.storage import Recording
from tests.support.scripted import SAMPLING, ScriptedEngine, ScriptedSource, problems


def add(data, given, source=None, **options):
    sampling = options.pop("sampling", SAMPLING)
    settings: dict[str, Any] = {"shard_size": 4, "append": True} | options
    return collect(source or ScriptedSource(), given, data.path, sampling, CollectOptions(**settings))


def files(data):
    kept = sorted(file for file in data.path.iterdir() if file.name != "meta.json")
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino) for file in kept}


def by_trace(data):
    cues = data.cues().to_pylist()
    own: dict[str, list[tuple[str, list[float]]]] = {
        name: [] for name in data.traces()["trace_id"].to_pylist()
    }
    for row, vector in zip(cues, data.features().tolist(), strict=True):
        own[row["trace_id"]].append((str(row), vector))
    return {row["trace_id"]: (row, own[row["trace_id"]]) for row in data.traces().to_pylist()}


@pytest.mark.parametrize("given", [problems(17)[10:], problems(17)], ids=["new ones", "old and new ones"])
def test_new_problems_are_added_behind_the_old(recorded, tmp_path, given):
    # given ten problems, recorded in three shards
    before, rows = files(recorded), by_trace(recorded)
    # when seven are added
    source = ScriptedSource()
    data = add(recorded, given, source)
    # then only these are generated, into shards of their own, and nothing of the old is touched
    assert sorted(source.engine.generated) == sorted(f"p{i}#0" for i in range(10, 17))
    assert files(data).items() > before.items()
    assert len(files(data)) == 4 * (3 + 2)
    # and the rows are those of a collection of all problems at once
    at_once = collect(ScriptedSource(), problems(17), tmp_path / "x", SAMPLING, CollectOptions(shard_size=4))
    assert by_trace(data) == by_trace(at_once) == rows | by_trace(data)
    # and both commands find nothing more to do
    idle = ScriptedSource()
    add(recorded, given, idle)
    collect(idle, problems(10), recorded.path, SAMPLING, CollectOptions(shard_size=4))
    assert idle.engine.generated == []
    assert len(Recording.open(recorded.path).traces()) == 17


def test_more_samples_are_added_of_old_and_new_problems(recorded, tmp_path):
    # when three samples are asked for, first of the ten problems, then of two more
    add(recorded, problems(10), samples=3)
    data = add(recorded, problems(12), samples=3)
    # then each has three, as if recorded at once
    at_once = collect(
        ScriptedSource(), problems(12), tmp_path / "x", SAMPLING, CollectOptions(shard_size=4, samples=3)
    )
    assert by_trace(data) == by_trace(at_once)
    assert [(part.samples, part.problems, part.traces) for part in data.meta.appended] == [
        (3, 10, 20),
        (3, 2, 6),
    ]
    assert data.digest != recorded.digest


def test_inspect_counts_the_samples_that_were_added(recorded):
    add(recorded, problems(12), samples=2)
    add(recorded, problems(14)[12:], samples=1)
    found = json.loads(CliRunner().invoke(app, ["inspect", str(recorded.path), "--json"]).stdout)
    assert (found["problems"], found["traces"]) == (14, 26)
    assert (found["samples"], found["samples_most"]) == (1, 2)


def test_an_append_does_not_seal_what_was_damaged_before(recorded):
    # given a trace table of the first collection that was written anew since
    path = recorded.path / "traces-00000.parquet"
    pq.write_table(pq.read_table(path), path, compression="none")
    # when problems are appended
    add(recorded, problems(12))
    # then the digest that was taken when it was recorded still stands
    with pytest.raises(DataError, match=r"traces-00000\.parquet was changed"):
        Recording.open(recorded.path)


def test_an_append_belongs_to_what_it_was_appended_to(recorded, tmp_path):
    # given the same problems appended to two recordings
    other = collect(
        ScriptedSource(),
        problems(10),
        tmp_path / "other",
        replace(SAMPLING, seed=6),
        CollectOptions(shard_size=4),
    )
    add(other, problems(12), sampling=replace(SAMPLING, seed=6))
    add(recorded, problems(12))
    # when one takes the other's appended shard, then it is foreign
    for name in names(3):
        shutil.copy(Path(other.path) / name, recorded.path / name)
    with pytest.raises(DataError, match="another recording"):
        Recording.open(recorded.path, verify=False)


def test_full_shards_leave_no_empty_one(tmp_path):
    data = collect(ScriptedSource(), problems(8), tmp_path / "data", SAMPLING, CollectOptions(shard_size=4))
    assert (data.meta.shards, len(files(data))) == (2, 8)
    assert add(data, problems(12)).meta.shards == 3


def test_an_interrupted_append_goes_on_with_the_same_command_only(recorded):
    class Interrupted(ScriptedEngine):
        def _think(self, request, sampling):
            if request.id == "p15#0":
                raise KeyboardInterrupt
            return super()._think(request, sampling)

    # given an append that was interrupted in its second shard
    with pytest.raises(KeyboardInterrupt):
        add(recorded, problems(17)[10:], ScriptedSource(type("ScriptedEngine", (Interrupted,), {})()))
    with pytest.raises(StepError, match="4 of 5 shards"):
        Recording.open(recorded.path)
    assert len(Recording.open(recorded.path, partial=True).traces()) == 14
    # then other commands are refused
    for given, append in ((problems(17)[10:16], True), (problems(10), True), (problems(10), False)):
        with pytest.raises(ConfigError, match="Finish it with the"):
            add(recorded, given, append=append)
    # and the same goes on with what is missing
    source = ScriptedSource()
    data = add(recorded, problems(17)[10:], source)
    assert sorted(source.engine.generated) == ["p14#0", "p15#0"]
    assert len(data.traces()) == 17


def test_what_cannot_be_appended_is_refused_and_changes_nothing(recorded, tmp_path):
    before = files(recorded), (recorded.path / "meta.json").read_bytes()
    changed = [*problems(9), Problem("p9", "another prompt", "0")]
    for given in (changed, problems(5), problems(12)[8:]):
        with pytest.raises(DataError, match="recorded before"):
            add(recorded, given, samples=2)
    with pytest.raises(ConfigError, match=r"other settings: max_cues\."):
        add(recorded, problems(12), max_cues=1)
    assert before == (files(recorded), (recorded.path / "meta.json").read_bytes())
    with pytest.raises(StepError, match="no recorded data"):
        collect(ScriptedSource(), problems(3), tmp_path / "none", SAMPLING, CollectOptions(append=True))
    (recorded.path / "traces-00002.parquet").unlink()
    meta = json.loads((recorded.path / "meta.json").read_text())
    (recorded.path / "meta.json").write_text(json.dumps(meta | {"digests": None}))
    with pytest.raises(StepError, match="unfinished"):
        add(recorded, problems(12))
