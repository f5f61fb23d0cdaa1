"""Collect in child processes that are killed; run by path, prints what happened as JSON.

First before each kind of file is renamed into place, then at random moments. A moment is the number of a call
of Python or C that this package made since the start: it falls between any two operations on the disk, and
does not depend on the machine's speed.
"""

# ruff: noqa: E402
import json
import os
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, os.getcwd())

from lynxstop.collect.runner import collect
from tests.support.scripted import SAMPLING, ScriptedSource, problems

KILLS = 12


class Fatal:
    """Kills the process at the n-th time it is called; at none when negative."""

    def __init__(self, at):
        self.at, self.calls = at, 0

    def __call__(self):
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def child(out, call=-1, rename=-1):
    """Collect in a fork that is killed at a call or before a rename; give its status and number of calls."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        calling, renaming, replace = Fatal(call), Fatal(rename), Path.replace
        Path.replace = lambda path, target: renaming() or replace(path, target)
        sys.setprofile(lambda frame, *_: "/lynxstop/" in frame.f_code.co_filename and calling())
        collect(ScriptedSource(), problems(40), out, sampling=SAMPLING, shard_size=3)
        sys.setprofile(None)
        os.write(writer, str(calling.calls).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    with open(reader) as pipe:
        return status, int(pipe.read() or 0)


def main():
    folder = Path(sys.argv[1])
    out = folder / "killed"
    collect(ScriptedSource(), problems(1), folder / "warm", sampling=SAMPLING)  # imports happen once
    status, calls = child(folder / "calm")
    assert status == 0
    chance, shards = random.Random(11), []
    for number in range(1, 6 + KILLS):
        if number < 6:
            status, _ = child(out, rename=number)
        else:
            status, _ = child(out, call=chance.randrange(1, calls * len(shards) // 20))
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        shards.append(len(list(out.glob("traces-*"))))
    assert child(out)[0] == 0
    print(json.dumps(shards))


main()
