"""Progress of a collection on stderr: traces and cues per second, and the time left."""

from __future__ import annotations

import time
from datetime import timedelta
from math import inf
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class Meter:
    """Counts traces and cues; draws a line unless told not to, or when `console` is no terminal.

    Parameters
    ----------
    total : int
        Traces to record.
    done : int
        Traces recorded by an earlier run.
    console : Console, optional
        Where to draw; nowhere when None.

    Attributes
    ----------
    traces, cues : int
        Recorded in this run.
    """

    def __init__(self, total: int, done: int, console: Console | None) -> None:
        self.traces = self.cues = 0
        self._started = time.monotonic()
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

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._started

    def generated(self, in_shard: int) -> None:
        """Show traces of the present shard that are thought to the end, but not yet recorded."""
        self._bar.update(self._task, completed=self._done + self.traces + in_shard)

    def recorded(self, traces: int, cues: int) -> None:
        """Count a shard."""
        self.traces += traces
        self.cues += cues
        elapsed = max(self.seconds, 1e-9)
        rates = f"{self.traces / elapsed:.1f} traces/s, {self.cues / elapsed:.1f} cues/s"
        left = timedelta(seconds=round(self.left))
        self._bar.update(self._task, completed=self._done + self.traces, rates=f"{rates}, {left} left")

    @property
    def left(self) -> float:
        """Seconds to the end at the rate of this run so far; infinite before its first shard."""
        missing = self._total - self._done - self.traces
        return missing * self.seconds / self.traces if self.traces else inf
