"""The collection: rows, settings, interruptions."""

import errno
import io
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lynxstop.collect.options import CollectOptions
from lynxstop.collect.progress import Meter
from lynxstop.collect.rows import spread
from lynxstop.collect.runner import collect
from lynxstop.errors import ConfigError, DataError
from lynxstop.recordings.storage import Recording
from tests.support.scripted import SAMPLING, ScriptedEngine, ScriptedSource, problems

FILES = ("traces-*.parquet", "cues-*.parquet", "features-*.safetensors", "tokens-*.safetensors")


def content(folder):
    return {file.name: file.read_bytes() for pattern in FILES for file in sorted(folder.glob(pattern))}


def test_rows_say_what_the_engine_did(recorded):
    # given the traces of a scripted engine
    cues = recorded.cues().to_pylist()
    for trace in recorded.traces().to_pylist():
        rows = [cue for cue in cues if cue["trace_id"] == trace["trace_id"]]
        assert trace["trace_id"] == f"{trace['problem_id']}#0"
        assert (trace["family"], json.loads(trace["metadata"])) == ("sum", {"source": "x"})
        assert trace["full_right"] is (trace["full_answer"] == trace["gold"])
        assert trace["text"].endswith(f"\\boxed{{{trace['full_answer']}}}")
        assert trace["thinking_tokens"] + trace["answer_tokens"] == len(trace["text"])
        assert [row["cue"] for row in rows] == list(range(trace["events"]))
        for row in rows:
            # then every cue knows its word, its place and whether its forced answer equals the full one
            assert (row["word"], row["thinking_at_exit"]) == ("wait", row["position"] + 1)
            assert row["agrees"] is (row["trial_answer"] == trace["full_answer"])
            assert row["right"] is (row["trial_answer"] == trace["gold"])
            assert row["trial_confidence"] == pytest.approx(0.8187, abs=1e-4)
            assert row["trial_text"] == f"</think>\\boxed{{{row['trial_answer']}}}."


def test_samples_and_shard_sizes_change_no_trace(recorded, tmp_path):
    other = collect(
        ScriptedSource(), problems(10), tmp_path / "two", SAMPLING, CollectOptions(shard_size=7, samples=2)
    )
    firsts = [row for row in other.traces().to_pylist() if row["sample"] == 0]
    assert firsts == recorded.traces().to_pylist()


def test_max_cues_spreads_the_exits_and_says_so(tmp_path):
    data = collect(ScriptedSource(), problems(10), tmp_path / "d", SAMPLING, CollectOptions(max_cues=2))
    assert max(data.traces()["cues"].to_pylist()) == 2
    assert not data.whole
    assert spread(10, 2) == [2, 7]
    assert spread(2, 3) == [0, 1]


def test_other_settings_are_refused_by_name(recorded):
    changed = SAMPLING.__class__(temperature=0.5, max_tokens=600, answer_tokens=8, seed=6)
    with pytest.raises(ConfigError, match=r"temperature, seed"):
        collect(ScriptedSource(), problems(10), recorded.path, changed, CollectOptions(shard_size=4))
    with pytest.raises(ConfigError, match="problems, problems_sha256"):
        collect(ScriptedSource(), problems(9), recorded.path, SAMPLING, CollectOptions(shard_size=4))
    with pytest.raises(ConfigError, match="already"):
        collect(
            ScriptedSource(),
            problems(10),
            recorded.path,
            SAMPLING,
            CollectOptions(shard_size=4, resume=False),
        )


def test_a_finished_collection_is_not_repeated(recorded):
    source = ScriptedSource()
    collect(source, problems(10), recorded.path, SAMPLING, CollectOptions(shard_size=4))
    assert source.engine.generated == []


def test_ctrl_c_keeps_every_finished_trace_and_resuming_skips_them(recorded, tmp_path):
    # given an interruption in the third shard, at its second trace
    class Interrupted(ScriptedEngine):
        def _think(self, request, sampling):
            if len(self.generated) == 10:
                raise KeyboardInterrupt
            return super()._think(request, sampling)

    out = tmp_path / "interrupted"
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    with pytest.raises(KeyboardInterrupt):
        collect(
            ScriptedSource(Interrupted()),
            problems(10),
            out,
            SAMPLING,
            CollectOptions(shard_size=4),
            console=console,
        )
    assert f"Interrupted: 9 of 10 traces are kept in {out};" in shown.getvalue()
    assert [file.name for file in out.glob("*.partial")] == ["shard-00002-0000.partial"]
    # when it goes on
    source = ScriptedSource()
    source.engine = type("Interrupted", (ScriptedEngine,), {})()
    collect(source, problems(10), out, SAMPLING, CollectOptions(shard_size=4))
    # then only what is missing is recorded, and the files are those of an undisturbed run
    assert source.engine.generated == ["p8#0"]
    assert content(out) == content(recorded.path)
    assert list(out.glob("*.partial")) == []


@pytest.mark.parametrize("every", ["0", "inf"])
def test_kill_9_at_any_moment_loses_nothing_that_was_kept(tmp_path, every):
    # given an undisturbed collection, and one killed before each rename, then at random calls, that keeps
    # each trace or only whole shards
    script = Path(__file__).parents[1] / "support" / "killed.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path, every],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    # then it was killed often, with some shards there and some not
    if every == "inf":
        assert seen["shards"][:5] == [0, 0, 0, 0, 1]
        assert seen["traces"] == [min(3 * shards, 40) for shards in seen["shards"]]
    else:
        assert seen["traces"][:5] == [0, 0, 2, 3, 3]
        assert seen["traces"] == sorted(seen["traces"])
    assert len(seen["shards"]) >= 10
    assert len(set(seen["shards"])) >= 6
    # and no trace that was kept was generated again
    assert seen["repeated"] == []
    # and the result is the same, byte by byte, and nothing half-written is left
    calm, out = tmp_path / "calm", tmp_path / "killed"
    assert content(out) == content(calm)
    assert Recording.open(out).digest == Recording.open(calm).digest
    np.testing.assert_array_equal(Recording.open(out).features(), Recording.open(calm).features())
    assert [*out.glob(".*"), *out.glob("*.partial")] == []


def test_a_full_disk_is_one_clear_error_and_resuming_works(recorded, tmp_path):
    # given no room for files of more than a few bytes, once the settings are written
    out = tmp_path / "full"

    class Filling(ScriptedEngine):
        def force_exits(self, generations, sampling, cuts=None):
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
            return super().force_exits(generations, sampling, cuts)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(DataError, match="No space left") as caught:
            collect(ScriptedSource(Filling()), problems(10), out, SAMPLING, CollectOptions(shard_size=4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno in (errno.EFBIG, errno.ENOSPC)
    # when there is room again, then it goes on
    source = ScriptedSource(type("Filling", (ScriptedEngine,), {})())
    data = collect(source, problems(10), out, SAMPLING, CollectOptions(shard_size=4))
    assert data.traces().select(["text"]) == recorded.traces().select(["text"])


def interrupted(out, after):
    """A collection that ended after so many shards of four."""

    class Interrupted(ScriptedEngine):
        def _think(self, request, sampling):
            if len(self.generated) == 4 * after + 1:
                raise KeyboardInterrupt
            return super()._think(request, sampling)

    with pytest.raises(KeyboardInterrupt):
        collect(ScriptedSource(Interrupted()), problems(10), out, SAMPLING, CollectOptions(shard_size=4))


def test_finished_shards_are_checked_before_a_collection_goes_on(tmp_path):
    # given an interrupted collection, one of whose shards was damaged since
    interrupted(tmp_path, 2)
    file = tmp_path / "features-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    # then it is neither read nor gone on with
    with pytest.raises(DataError, match=r"features-00000\.safetensors was changed"):
        Recording.open(tmp_path, partial=True)
    source = ScriptedSource()
    with pytest.raises(DataError, match=r"features-00000\.safetensors was changed"):
        collect(source, problems(10), tmp_path, SAMPLING, CollectOptions(shard_size=4))
    assert source.engine.generated == []


def test_what_killed_processes_leave_goes_at_the_start_and_at_the_end(tmp_path):
    # given a half-written file of an earlier command
    interrupted(tmp_path, 1)
    (tmp_path / ".traces-00001.parquet.dead").touch()
    # when the next is interrupted too, then it is gone
    interrupted(tmp_path, 0)
    assert list(tmp_path.glob(".*")) == []

    # and so is that of a process that is killed while others go on
    class Beside(ScriptedEngine):
        def _think(self, request, sampling):
            (tmp_path / ".cues-00002.parquet.dead").touch()
            return super()._think(request, sampling)

    source = ScriptedSource(type("ScriptedEngine", (Beside,), {})())
    collect(source, problems(10), tmp_path, SAMPLING, CollectOptions(shard_size=4))
    assert list(tmp_path.glob(".*")) == []


def test_shards_without_their_settings_are_not_overwritten(recorded):
    (recorded.path / "meta.json").unlink()
    with pytest.raises(DataError, match=r"shards without meta\.json"):
        collect(ScriptedSource(), problems(10), recorded.path, SAMPLING, CollectOptions(shard_size=4))


def test_traces_without_cues_are_recorded_too(tmp_path):
    class Decided(ScriptedEngine):
        def _think(self, request, sampling):
            generation = super()._think(request, sampling)
            empty = np.empty((0, self.width), np.float32)
            return replace(generation, events=[], signals=[], features=empty)

    data = collect(
        ScriptedSource(Decided()), problems(3), tmp_path / "d", SAMPLING, CollectOptions(shard_size=2)
    )
    assert (len(data.traces()), len(data.cues()), data.features().shape) == (3, 0, (0, 8))
    assert len(Recording.open(data.path).traces()) == 3


def test_two_collections_do_not_share_a_folder(tmp_path):
    class Rival(ScriptedEngine):
        def force_exits(self, generations, sampling, cuts=None):
            collect(ScriptedSource(), problems(10), tmp_path / "d", sampling=SAMPLING)

    with pytest.raises(ConfigError, match="Another process"):
        collect(ScriptedSource(Rival()), problems(10), tmp_path / "d", sampling=SAMPLING)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_drawn_on_terminals_only(tmp_path, terminal):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=120)
    collect(
        ScriptedSource(), problems(5), tmp_path / "d", SAMPLING, CollectOptions(shard_size=2), console=console
    )
    assert ("traces/s" in shown.getvalue()) is terminal
    assert ("5/5" in shown.getvalue()) is terminal
    assert ("0:00:00 left" in shown.getvalue()) is terminal


def test_the_time_left_counts_this_run_alone(monkeypatch):
    # given 100 traces, 40 of them recorded by an earlier run
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter = Meter(100, 40, None)
    assert meter.left == float("inf")
    # when this one recorded 20 in a minute, then the other 40 take two
    now[0] += 60
    meter.recorded(20, 50)
    assert meter.left == 120


def test_nothing_to_do_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no problems"):
        collect(ScriptedSource(), [], tmp_path, sampling=SAMPLING)
    with pytest.raises(ConfigError):
        collect(ScriptedSource(), problems(1), tmp_path, SAMPLING, CollectOptions(samples=0))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made a folder"):
        collect(ScriptedSource(), problems(1), tmp_path / "file", sampling=SAMPLING)
    source = ScriptedSource()
    with pytest.raises(DataError, match="problem id occurs twice"):
        collect(source, problems(1) * 2, tmp_path, sampling=SAMPLING)
    assert source.engine.generated == []
