"""Symbolic comparison in a process of its own: a pathological answer must cost seconds and not the run."""

from __future__ import annotations

import atexit
import json
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from lynxstop.errors import ConfigError, MissingExtraError
from lynxstop.grading.formula import read_formula

WORKER = Path(__file__).with_name("math_worker.py")
_START_SECONDS = 120.0
_ANSWER_SECONDS = 8.0


def require_sympy() -> None:
    """Check that sympy is installed, without the time that importing it takes.

    Raises
    ------
    MissingExtraError
    """
    if find_spec("sympy") is None:
        raise MissingExtraError("sympy", "calibrate")


class MathWorker:
    """A warmed process that proves formulas equal or different, killed and replaced when it is late.

    A timeout comes back as None, so that no slow answer counts as wrong.

    Parameters
    ----------
    seconds : float
        After that long without an answer the process is killed. It gives up by itself a little earlier.
    """

    def __init__(self, seconds: float = _ANSWER_SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def agree(self, left: str, right: str) -> bool | None:
        """Compare two normalised LaTeX expressions; None when undecided: not read, too slow, or too large.

        Raises
        ------
        MissingExtraError
            When sympy is not installed.
        ConfigError
            When it is, but fails on its first expressions: no pair would ever be decided.
        """
        trees = read_formula(left), read_formula(right)
        if trees[0] is None or trees[1] is None:
            return None
        with self._lock:
            process = self._ready()
            if process is None:
                return None
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps(trees) + "\n")
                process.stdin.flush()
                verdict = json.loads(self._lines.get(timeout=self._seconds))
            except (queue.Empty, OSError, json.JSONDecodeError):
                self._kill()
                return None
            return verdict if isinstance(verdict, bool) else None

    def close(self) -> None:
        """End the process; the next comparison starts a new one."""
        with self._lock:
            self._kill()

    def _ready(self) -> subprocess.Popen[str] | None:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._kill()
        require_sympy()
        process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        self._process = process
        self._lines = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process, self._lines), daemon=True).start()
        try:
            first = self._lines.get(timeout=_START_SECONDS)
        except queue.Empty:
            self._kill()
            return None
        if json.loads(first) != "ready":
            self._kill()
            raise ConfigError(
                "sympy is installed, but does not work.",
                hint="Install it again with: pip install -U 'lynxstop[calibrate]'",
            )
        return process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None and not stream.closed:
                    with suppress(OSError):
                        stream.close()


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    assert process.stdout is not None
    with suppress(OSError, ValueError):
        for line in process.stdout:
            lines.put(line)
    lines.put("null")


SHARED = MathWorker()
"""The worker that grading uses; started when the first pair needs it."""
atexit.register(SHARED.close)
