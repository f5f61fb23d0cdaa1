"""The life of the server's process: signals are passed on, and nothing outlives the launcher."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = """
import os, sys
from lynxstop.cli.serve import run
sys.exit(run([sys.executable, "-c", sys.argv[1]], dict(os.environ), float(sys.argv[2])))
"""
SERVER = """
import signal, subprocess, sys, time, pathlib
{signals}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
pathlib.Path({pids!r}).write_text(str(child.pid))
time.sleep(300)
"""


def launched(folder: Path, signals: str, patience: float) -> tuple[subprocess.Popen[bytes], int]:
    pids = folder / "pid"
    server = SERVER.format(signals=signals, pids=str(pids))
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, server, str(patience)])
    while not (pids.exists() and pids.read_text()):
        assert launcher.poll() is None
        time.sleep(0.02)
    return launcher, int(pids.read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_does_not_end_is_killed_with_its_processes(
    number: signal.Signals, tmp_path: Path
) -> None:
    # given a server that hears no signal, and a process of its own
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)"
    launcher, worker = launched(tmp_path, deaf, 0.5)
    # when the launcher is told to end
    launcher.send_signal(number)
    # then it does, with a status that says so, and the worker is gone
    assert launcher.wait(60) == 128 + signal.SIGKILL
    for _ in range(500):
        if not running(worker):
            break
        time.sleep(0.02)
    assert not running(worker)


def test_a_server_that_ends_by_itself_gives_the_status(tmp_path: Path) -> None:
    # given a server that tidies up and ends
    tidy = "signal.signal(signal.SIGTERM, lambda *_: (child.kill(), sys.exit(3)))"
    launcher, _ = launched(tmp_path, tidy, 60.0)
    # when the launcher is told to end, then the status is the server's
    launcher.terminate()
    assert launcher.wait(60) == 3


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
