"""Progress of a collection on stderr: how much is done, how fast, the time left, and where it is kept."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from math import inf
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

EVERY = 30.0
"""Seconds between two lines where there is no terminal to draw on."""


class Meter:
    """Counts traces and cues: a bar on a terminal, elsewhere a line every so many seconds.

    Parameters
    ----------
    total : int
        Traces to record.
    done : int
        Traces recorded by an earlier run.
    console : Console, optional
        Where to draw; nowhere when None.
    place : str
        Where traces are kept.
    every : float
        Seconds between two lines.

    Attributes
    ----------
    traces, cues : int
        Recorded in this run.
    """

    def __init__(
        self, total: int, done: int, console: Console | None, place: str = "", every: float = EVERY
    ) -> None:
        self.traces = self.cues = 0
        self._started = time.monotonic()
        self._console, self._place, self._every = console, place, every
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            console=console,
            disable=console is None or not console.is_terminal,
        )
        self._task = self._bar.add_task("Recording traces", total=total, completed=done, rates="")
        self._total, self._done = total, done
        self._in_shard = self._earlier = 0
        self._stop = threading.Event()
        self._printer = threading.Thread(target=self._print_now_and_then, daemon=True)

    def __enter__(self) -> Self:
        self._bar.start()
        if self._console is not None and not self._console.is_terminal:
            self._printer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._printer.ident is not None:
            self._printer.join()
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._started

    def generated(self, in_shard: int, earlier: int = 0) -> None:
        """Count the traces of the present shard that are generated, `earlier` of them by an earlier run."""
        self._in_shard, self._earlier = in_shard, earlier
        self._show()

    def recorded(self, traces: int, cues: int) -> None:
        """Count a shard."""
        self._done += self._earlier
        self.traces += traces - self._earlier
        self.cues += cues
        self._in_shard = self._earlier = 0
        self._show()

    @property
    def completed(self) -> int:
        """Traces that are generated, in this run or an earlier one."""
        return self._done + self.traces + self._in_shard

    @property
    def left(self) -> float:
        """Seconds to the end at the rate of this run so far; infinite before its first trace."""
        return (self._total - self.completed) * self.seconds / self._made if self._made else inf

    @property
    def _made(self) -> int:
        return self.traces + self._in_shard - self._earlier

    def line(self) -> str:
        """How much is done, of how much, how fast, the time left, and where it is kept."""
        rate = self._made / max(self.seconds, 1e-9)
        pace = f"{rate:.1f} traces/s" if rate >= 1 else f"{60 * rate:.1f} traces/min"
        left = "time left unknown" if self.left == inf else f"{timedelta(seconds=round(self.left))} left"
        if self.completed == self._total and self._in_shard:
            left = "forcing the exits of the last ones"
        return f"{self.completed} of {self._total} traces, {pace}, {left}; kept in {self._place}"

    def _show(self) -> None:
        elapsed = max(self.seconds, 1e-9)
        rates = f"{self._made / elapsed:.1f} traces/s, {self.cues / elapsed:.1f} cues/s"
        left = "" if self.left == inf else f", {timedelta(seconds=round(self.left))} left"
        self._bar.update(self._task, completed=self.completed, rates=rates + left)

    def _print_now_and_then(self) -> None:
        assert self._console is not None
        while not self._stop.wait(self._every):
            self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)
