"""What was observed of parts of the calibration problems: a description, beside the promise about all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.bounds import clopper_pearson_interval
from lynxstop.calibration.case import Case, Verdict
from lynxstop.calibration.certificate import Certificate, Subgroup
from lynxstop.errors import DataError

MIX = (
    "A level is a promise about the mix of these requests, and not about each subgroup. "
    "The intervals are exact at 95%, each for one subgroup and one level alone."
)
MOST = 50
"""Values of a column that are listed; a column with more has no subgroups."""


def labels_of(column: str, values: Sequence[object]) -> NDArray[np.str_]:
    """Label traces by a column, as `TraceTable.subgroups` has them; shape (traces,).

    Raises
    ------
    DataError
        When the column has more than `MOST` values, or its name holds "=".
    """
    labels = np.array([f"{column}={'' if value is None else value}" for value in values], dtype=np.str_)
    if "=" in column:
        raise DataError(f"A column of subgroups may not be named {column!r}.", hint="Rename it, without =.")
    if (found := len(np.unique(labels))) > MOST:
        raise DataError(
            f"The column {column!r} has {found} values: they are too many for a table of subgroups.",
            hint=f"Name a column with at most {MOST}.",
        )
    return labels


def observed(case: Case, verdict: Verdict) -> tuple[Subgroup, ...]:
    """Count losses and exits of every subgroup at a certified threshold; none where nothing exits."""
    table, weights = case.units.table, case.units.weights
    if table.subgroups is None or verdict.refused:
        return ()
    steps, threshold = case.steps, np.float32(verdict.threshold)
    at = (steps.low <= threshold) & (threshold < steps.high)
    exits, losses = np.zeros(table.traces), np.zeros(table.traces)
    exits[steps.trace[at]] = 1.0
    losses[steps.trace[at]] = case.losses[steps.event[at]]
    found = []
    for column in table.subgroups.T:
        for label in np.unique(column).tolist():
            mine = column == label
            name, _, value = label.partition("=")
            n, k = float(weights[mine].sum()), float((weights * losses)[mine].sum())
            found.append(
                Subgroup(
                    column=name,
                    value=value,
                    problems=n,
                    exits=float((weights * exits)[mine].sum()),
                    losses=k,
                    interval=clopper_pearson_interval(k, n)
                    if (weights[mine] == 1).all() and k == int(k)
                    else None,
                )
            )
    return tuple(found)


def table_of(certificates: Sequence[Certificate]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table of subgroups, with a column for each level that exits.

    Parameters
    ----------
    certificates : sequence of Certificate
        Levels of the same requests.
    """
    levels = [one for one in certificates if one.subgroups]
    head = ["subgroup", "problems", *(f"lost at {one.risk:g}" for one in levels)]
    columns = [one.subgroups for one in levels]
    rows = [
        [f"{cells[0].column} {cells[0].value or '(none)'}", f"{cells[0].problems:g}", *map(_cell, cells)]
        for cells in zip(*columns, strict=True)
    ]
    return head, rows


def _cell(found: Subgroup) -> str:
    share = f"{found.losses / found.problems:.1%}" if found.problems else ""
    if found.interval is None:
        return share
    return f"{share} ({found.interval[0]:.1%} to {found.interval[1]:.1%})"
