"""One page from what several runs of the benchmarks printed: every figure with its range over the runs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?")
_RULE = re.compile(r"[\s|:+\u2500-\u257f-]*")
Table = list[list[str]]


@dataclass(frozen=True)
class Result:
    """A benchmark and what its runs printed.

    Parameters
    ----------
    title, about : str
    command : str
    tables : sequence of sequences of tables
        One sequence per run.
    seconds : sequence of float
        Wall-clock of each run.
    how : str
        Date, machine, load and versions.
    failed : str
        Why there are no figures; empty when there are.
    """

    title: str
    about: str
    command: str
    tables: Sequence[Sequence[Table]]
    seconds: Sequence[float]
    how: str
    failed: str = ""


def tables_of(text: str) -> list[Table]:
    """Find the tables in what a benchmark printed: Markdown, drawn in boxes, or aligned by spaces.

    Lines of text between tables are tables of one cell.
    """
    found: list[Table] = []
    width = 0
    for line in text.splitlines():
        if _RULE.fullmatch(line):
            width = width if line.strip() else 0
            continue
        cells = _cells(line)
        if len(cells) == width and width > 1:
            found[-1].append(cells)
        else:
            found.append([cells])
        width = len(cells)
    return found


def _cells(line: str) -> list[str]:
    if line.lstrip().startswith("|"):
        return [cell.strip() for cell in line.strip().strip("|").split("|")]
    if "│" in line or "┃" in line:
        return [cell.strip() for cell in re.split("[│┃]", line.strip().strip("│┃"))]
    return re.split(r"\s{2,}", line.strip())


def merge(runs: Sequence[str]) -> str:
    """Merge the same cell of several runs.

    A single number becomes the median with the range in brackets. A cell of several numbers has an interval
    of its own, or counts: it is that of the run whose first number is the median. Of an even number of runs
    the lower one of the two in the middle counts as the median.
    """
    if len(set(runs)) == 1:
        return runs[0]
    if len({NUMBER.sub("#", cell) for cell in runs}) > 1:
        return " / ".join(dict.fromkeys(runs))
    values = [
        [float(number.replace(",", "").replace("−", "-")) for number in NUMBER.findall(c)] for c in runs
    ]
    middle = runs[values.index(sorted(values)[(len(values) - 1) // 2])]
    if len(values[0]) > 1:
        return middle
    firsts = [own[0] for own in values]
    texts = {value: NUMBER.findall(cell)[0] for value, cell in zip(firsts, runs, strict=True)}
    median = statistics.median_low(firsts)
    low, high = min(firsts), max(firsts)
    shown = runs[firsts.index(median)]
    return f"{shown} ({texts[low]} to {texts[high]})"


def merged(runs: Sequence[Sequence[Table]]) -> list[Table]:
    """Merge the tables of several runs; those of the first alone when they differ in form."""
    forms = {tuple((len(table), len(table[0])) for table in own) for own in runs}
    if len(forms) > 1:
        return list(runs[0])
    return [
        [[merge([own[t][r][c] for own in runs]) for c in range(len(row))] for r, row in enumerate(table)]
        for t, table in enumerate(runs[0])
    ]


def page(results: Sequence[Result], before: str = "") -> str:
    """Write docs/benchmarks.md.

    Parameters
    ----------
    results : sequence of Result
    before : str
        An earlier page: its sections stay where none of the results has their title.
    """
    sections = dict(_sections(before)) | {one.title: _section(one) for one in results}
    return "\n".join([_HEAD, *sections.values()])


_HEAD = (
    "# Benchmarks\n"
    "This page is written by `make bench`. A figure is the median of the runs named beside its command (of "
    "two, the lower one), with the lowest and the highest in brackets; figures without brackets were the "
    "same in all runs, or there was one. A cell with an interval of its own is that of the median run. Each "
    "section says when and where it was measured.\n"
)


def _sections(text: str) -> list[tuple[str, str]]:
    parts = text.split("\n## ")[1:]
    return [(part.partition("\n")[0], f"## {part.rstrip()}\n") for part in parts]


def _section(result: Result) -> str:
    lines = [f"## {result.title}", result.about, ""]
    lines.append(f"`{result.command}`, {_runs(result)} {result.how}")
    if result.failed:
        lines += ["", f"No figures: {result.failed}"]
    else:
        for table in merged(result.tables):
            lines += ["", *_markdown(table)]
    return "\n".join(lines) + "\n"


def _runs(result: Result) -> str:
    if not result.seconds:
        return "not run."
    count = len(result.seconds)
    return f"{count} run{'s' if count > 1 else ''}, {statistics.median(result.seconds):.0f} s each."


def _markdown(table: Table) -> list[str]:
    if len(table[0]) == 1:
        return [row[0] for row in table]
    head, *rows = table
    rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
