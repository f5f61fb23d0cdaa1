"""How commands speak: people read stderr, programs read JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from lynxstop.artifacts.plain import plain
from lynxstop.errors import LynxstopError

console = Console(stderr=True)


def fail(error: LynxstopError) -> None:
    """Print an error and its hint."""
    console.print("[bold red]Error:[/]", end=" ")
    console.print(error.message, markup=False, highlight=False, soft_wrap=True)
    if error.hint:
        console.print(error.hint, markup=False, highlight=False, soft_wrap=True)


def emit(result: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; values that are not finite become null."""
    sys.stdout.write(json.dumps(plain(result), indent=2, default=str, allow_nan=False) + "\n")


def progress(*columns: str) -> Progress:
    """Progress bar on stderr, silent when that is not a terminal; `columns` are extra text columns."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(column) for column in columns),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def table(title: str, *headers: str) -> Table:
    """Make a plain table: first column left, the others right."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for i, header in enumerate(headers):
        made.add_column(header, justify="left" if i == 0 else "right")
    return made
