"""How commands speak: people read stderr, programs read JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from lynxstop.errors import LynxstopError

    console: Console
    """Writes to stderr."""


@cache
def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def __getattr__(name: str) -> Any:
    """Make the console when it is first used: rich takes long to load."""
    if name == "console":
        return _console()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def fail(error: LynxstopError) -> None:
    """Print an error and its hint."""
    _console().print("[bold red]Error:[/]", end=" ")
    _console().print(error.message, markup=False, highlight=False, soft_wrap=True)
    if error.hint:
        _console().print(error.hint, markup=False, highlight=False, soft_wrap=True)


def emit(result: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; values that are not finite become null."""
    from lynxstop.artifacts.plain import plain

    sys.stdout.write(json.dumps(plain(result), indent=2, default=str, allow_nan=False) + "\n")


def progress(*columns: str) -> Progress:
    """Progress bar on stderr, silent when that is not a terminal; `columns` are extra text columns."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(column) for column in columns),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_console(),
        disable=not _console().is_terminal,
    )


def table(title: str, *headers: str) -> Table:
    """Make a plain table: first column left, the others right."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for i, header in enumerate(headers):
        made.add_column(header, justify="left" if i == 0 else "right")
    return made
