"""Collect in child processes that are killed; run by path, prints what happened as JSON.

First before each kind of file is renamed into place, then at random moments. A moment is the number of a call
of Python or C that this package made since the start: it falls between any two operations on the disk, and
does not depend on the machine's speed. The second argument says how often finished traces are kept.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, os.getcwd())

from lynxstop.collect import partial
from lynxstop.collect.options import CollectOptions
from lynxstop.collect.runner import collect
from lynxstop.recordings.meta_file import read_meta
from lynxstop.recordings.storage import Recording
from lynxstop.recordings.store import store_at
from tests.support.scripted import SAMPLING, ScriptedEngine, ScriptedSource, problems

KILLS = 12
SIZE = 3
EVERY = float(sys.argv[2])


class Fatal:
    """Kills the process at the n-th time it is called; at none when negative."""

    def __init__(self, at):
        self.at, self.calls = at, 0

    def __call__(self):
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def logging(file):
    """A source whose engine notes the traces it generates."""

    class Logging(ScriptedEngine):
        def _think(self, request, sampling):
            os.write(file, f"{request.id}\n".encode())
            return super()._think(request, sampling)

    return ScriptedSource(Logging())


def child(out, call=-1, rename=-1):
    """Collect in a fork that is killed at a call or before a rename.

    Returns its status, its number of calls, and the traces it generated.
    """
    reader, writer = os.pipe()
    log, noting = os.pipe()
    pid = os.fork()
    if pid == 0:
        calling, renaming, replace = Fatal(call), Fatal(rename), Path.replace

        def fatal_replace(path, target):
            renaming()
            return replace(path, target)

        setattr(Path, "replace", fatal_replace)  # noqa: B010
        sys.setprofile(lambda frame, *_: "/lynxstop/" in frame.f_code.co_filename and calling())
        collect(
            logging(noting), problems(40), out, SAMPLING, CollectOptions(shard_size=SIZE, keep_every=EVERY)
        )
        sys.setprofile(None)
        os.write(writer, str(calling.calls).encode())
        os._exit(0)
    os.close(writer)
    os.close(noting)
    _, status = os.waitpid(pid, 0)
    with open(reader) as pipe, open(log) as lines:
        return status, int(pipe.read() or 0), lines.read().split()


def kept(out):
    """Ids of the traces that an interrupted collection holds."""
    if not (out / "meta.json").exists():
        return set()
    store = store_at(out)
    meta = read_meta(store)
    found = partial.ids(store, range(meta.shards), meta.key)
    if list(out.glob("traces-*")):
        found |= set(Recording.open(out, partial=True).traces(["trace_id"])["trace_id"].to_pylist())
    return found


def main():
    folder = Path(sys.argv[1])
    out = folder / "killed"
    collect(ScriptedSource(), problems(1), folder / "warm", sampling=SAMPLING)  # imports happen once
    status, calls, _ = child(folder / "calm")
    assert status == 0
    chance = random.Random(11)
    shards: list[int] = []
    traces: list[int] = []
    repeated: list[str] = []
    for number in range(1, 6 + KILLS):
        before = kept(out)
        if number < 6:
            status, _, generated = child(out, rename=number)
        else:
            status, _, generated = child(out, call=chance.randrange(1, calls * len(shards) // 20))
        repeated += sorted(before & set(generated))
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        shards.append(len(list(out.glob("traces-*"))))
        traces.append(len(kept(out)))
    before = kept(out)
    status, _, generated = child(out)
    assert status == 0
    repeated += sorted(before & set(generated))
    print(json.dumps({"shards": shards, "traces": traces, "repeated": repeated}))


main()
