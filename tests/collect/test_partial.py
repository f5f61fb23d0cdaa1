"""The traces of an unfinished shard: kept by the clock, and as they were."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lynxstop.collect import partial
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.partial import PartialShard, TraceRows
from lynxstop.collect.progress import Meter
from lynxstop.collect.runner import collect
from lynxstop.core.exits import CueEvent, Exit, Reason
from lynxstop.core.types import Generation, Request, Signals, Tokens
from lynxstop.errors import DataError
from lynxstop.recordings.meta_file import read_meta
from lynxstop.recordings.store import Folder
from tests.support.scripted import SAMPLING, BlackBoxEngine, ScriptedEngine, ScriptedSource, problems

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "meta.json"}


def shard(folder, *names, every=0.0):
    return PartialShard(Folder(folder), 3, "key", {name: Request(name, (7, 8)) for name in names}, every)


numbers = st.floats(allow_nan=True, allow_infinity=True)
events = st.lists(
    st.builds(CueEvent, *[st.integers(0, 9)] * 3, numbers, st.booleans(), st.integers(1, 7)), max_size=3
)


@st.composite
def generations(draw):
    count, seen = draw(st.integers(0, 5)), draw(events)
    noise = np.random.default_rng(draw(st.integers(0, 99)))
    exit = st.builds(Exit, st.sampled_from(Reason), *[st.integers(-1, 9)] * 3, numbers, numbers)
    tokens = Tokens(
        noise.integers(0, 99, count).astype(np.int32),
        noise.random(count) < 0.5,
        noise.normal(size=(count, 4)).astype(np.float32),
    )
    recorded = draw(st.booleans())
    return Generation(
        Request("a#0", (7, 8)),
        noise.integers(0, 99, count).tolist(),
        draw(st.integers(0, 9)),
        draw(st.sampled_from(["stop", "length"])),
        seen,
        draw(st.none() | exit),
        noise.normal(size=(len(seen), 6)).astype(np.float32) if recorded else None,
        [Signals(*draw(st.tuples(*[numbers] * 5))) for _ in seen] if recorded else None,
        noise.normal(size=count).tolist(),
        tokens if recorded else None,
        draw(st.none() | st.just([1] * len(seen))),
        draw(st.none() | st.integers(0, 9)),
    )


@given(generations())
def test_a_generated_trace_comes_back_as_it_was(tmp_path_factory, generation):
    folder = tmp_path_factory.mktemp("shard")
    shard(folder, "a#0").add_generated(generation)
    found = shard(folder, "a#0").generated["a#0"]
    assert repr(found) == repr(generation)


def test_a_recorded_trace_comes_back_and_takes_the_place_of_the_generated_one(tmp_path):
    row = {"trace_id": "a#0", "text": "é\n", "full_right": None, "events": np.int64(2)}
    tokens = Tokens(np.arange(2, dtype=np.int32), np.ones(2, bool), np.full((2, 4), np.nan, np.float32))
    made = TraceRows(row, [{"entropy": math.nan}, {"entropy": 0.1}], np.eye(2, dtype=np.float32), tokens)
    kept = shard(tmp_path, "a#0")
    kept.add_generated(Generation(Request("a#0", (7, 8)), [1], 1, "stop", [], None))
    kept.add_recorded([made])
    found = shard(tmp_path, "a#0")
    assert (found.generated, list(found.recorded), len(found)) == ({}, ["a#0"], 1)
    assert repr(found.recorded["a#0"]) == repr(made).replace("np.int64(2)", "2")
    assert partial.ids(Folder(tmp_path), [3], "key") == {"a#0"}


def test_damaged_files_and_those_of_other_settings_are_left_out(tmp_path):
    kept = shard(tmp_path, "a#0", "b#0", "c#0")
    for name in ("a#0", "b#0", "c#0"):
        kept.add_generated(Generation(Request(name, (7, 8)), [1], 1, "stop", [], None))
    first, second, _ = sorted(tmp_path.iterdir())
    damaged = bytearray(first.read_bytes())
    damaged[-1] ^= 1
    first.write_bytes(damaged)
    second.write_bytes(second.read_bytes()[:50])
    assert list(shard(tmp_path, "a#0", "b#0", "c#0").generated) == ["c#0"]
    assert partial.ids(Folder(tmp_path), [3], "other") == set()
    assert partial.ids(Folder(tmp_path), [2], "key") == set()


def test_what_is_generated_is_kept_while_the_engine_is_busy_with_the_next(tmp_path):
    # given an engine that does not go on before it sees that its first traces are kept
    class Waiting(ScriptedEngine):
        def _think(self, request, sampling):
            if len(self.generated) == 3:
                wait_for(lambda: len(kept(tmp_path)) == 2)
                raise SystemExit
            return super()._think(request, sampling)

    with pytest.raises(SystemExit):
        collect(ScriptedSource(Waiting()), problems(4), tmp_path, SAMPLING, CollectOptions(keep_every=0.01))
    assert kept(tmp_path) == {"p3#0", "p2#0"}


def test_a_trace_that_cannot_be_kept_ends_the_collection(tmp_path):
    class Full(Folder):
        def write(self, name, content):
            full.set()
            raise DataError("No space left.")

    full = threading.Event()
    made = Generation(Request("a#0", (7, 8)), [1], 1, "stop", [], None)
    with PartialShard(Full(tmp_path), 3, "key", {}, 0.01) as kept:
        kept.add_generated(made)
        full.wait(PATIENCE)
        with pytest.raises(DataError, match="No space"):
            add_for_ever(kept, made)


@pytest.mark.parametrize("engine", [ScriptedEngine, BlackBoxEngine])
@pytest.mark.parametrize("at_once", [None, 1, 5, 1000])
def test_exits_are_forced_in_the_same_company_after_an_interruption(tmp_path, engine, at_once):
    # given engines that force exits one trace at a time, a few, or a whole shard at a time
    class Noting(engine):  # type: ignore[valid-type, misc]
        def force_exits(self, generations, sampling, cuts=None):
            company.append([generation.request.id for generation in generations])
            if len(company) == stop:
                raise KeyboardInterrupt
            return super().force_exits(generations, sampling, cuts)

    def run(folder):
        source = ScriptedSource(Noting(exits_at_once=at_once))
        return collect(source, problems(9), tmp_path / folder, SAMPLING, CollectOptions(keep_every=0))

    company: list[Any] = []
    stop = 0
    run("calm")
    calm, company = company, []
    # when it is interrupted again and again, at the second call that forces exits
    stop, runs = 2, 0
    while True:
        before = len(company)
        stop, runs = before + 2, runs + 1
        try:
            run("again")
            break
        except KeyboardInterrupt:
            company.pop()
    # then the same traces went together, each once, and the files are the same
    assert runs == len(calm)
    assert company == calm
    assert files(tmp_path / "again") == files(tmp_path / "calm")


CHILD = """
import sys
from lynxstop.cli import main
from lynxstop.collect.sources import ENGINES
from tests.support.scripted import ScriptedEngine, ScriptedSource
engine = ScriptedEngine(pause=float(sys.argv.pop()))
ENGINES["scripted"] = lambda model, recipe, options: ScriptedSource(engine)
main()
"""


@contextmanager
def command(folder, out, pause):
    """The command in a process of its own, with a scripted engine."""
    lines = folder / "problems.jsonl"
    lines.write_text("".join(json.dumps({"id": p.id, "prompt": p.prompt}) + "\n" for p in problems(20)))
    line = [sys.executable, "-c", CHILD, "collect", "none", lines, out, "--engine", "scripted"]
    with subprocess.Popen(
        [*map(str, line), "--keep-every", "0.05", str(pause)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_the_command_with_all_finished_traces_kept(tmp_path, number, status):
    # given a command that keeps traces one after the other
    with command(tmp_path, tmp_path / "out", 0.3) as process:
        wait_for(lambda: len(kept(tmp_path / "out")) >= 2 or process.poll() is not None)
        # when it gets a signal in the middle of its only shard
        process.send_signal(number)
        said = process.stderr.read()
    # then it ends with the status of that signal, and says how much is there
    count = len(kept(tmp_path / "out"))
    assert (process.returncode, 2 <= count < 20) == (status, True), said
    assert f"Interrupted: {count} of 20 traces are kept in {tmp_path / 'out'};" in said
    assert "Traceback" not in said
    # and the same command ends with the same bytes as an undisturbed one
    for out in ("out", "calm"):
        with command(tmp_path, tmp_path / out, 0) as process:
            assert process.wait() == 0, process.stderr.read()
    assert files(tmp_path / "out") == files(tmp_path / "calm")


def test_without_a_terminal_progress_is_a_line_now_and_then():
    # given 100 traces, 40 of them recorded earlier
    shown = io.StringIO()
    console = Console(file=shown, width=40)
    with Meter(100, 40, console, "some/place", every=0.01) as meter:
        wait_for(lambda: "40 of 100 traces" in shown.getvalue())
        # when 10 more are generated, 4 of them by the earlier run
        meter.generated(10, 4)
        wait_for(lambda: "50 of 100 traces" in shown.getvalue())
    # then each line says how many, how fast, how long still, and where they are
    first, *_, last = filter(None, shown.getvalue().splitlines())
    assert first == "40 of 100 traces, 0.0 traces/min, time left unknown; kept in some/place"
    assert last.startswith("50 of 100 traces, ")
    assert last.endswith(" left; kept in some/place")
    assert "traces/" in last


def test_traces_of_an_earlier_run_do_not_count_for_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter = Meter(100, 40, None)
    now[0] = 60.0
    meter.generated(20, 10)
    assert (meter.left, meter.line()) == (240.0, "60 of 100 traces, 10.0 traces/min, 0:04:00 left; kept in ")
    meter.recorded(20, 5)
    assert (meter.left, meter.completed, meter.traces) == (240.0, 60, 10)
    meter.generated(40)
    assert meter.line() == "100 of 100 traces, 50.0 traces/min, forcing the exits of the last ones; kept in "


def kept(folder):
    """Ids of the traces in partial files."""
    try:
        meta = read_meta(Folder(folder))
    except Exception:
        return set()
    return partial.ids(Folder(folder), range(meta.shards), meta.key)


def add_for_ever(kept, generation):
    while True:
        kept.add_generated(generation)


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
