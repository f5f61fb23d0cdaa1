"""Groups of requests, by route, tenant or any other column, that are certified beside all requests."""

from __future__ import annotations

import numpy as np

from lynxstop.calibration.certificate import Group
from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import DataError


def split_groups(table: TraceTable, by: str | None) -> list[Group | None]:
    """List what is certified: None, which is everything, then every value of column `by`.

    Raises
    ------
    DataError
        When the table has no groups, or samples of one problem are in several.
    """
    if by is None:
        return [None]
    if table.groups is None:
        raise DataError(f"The traces have no column {by!r} to group by.")
    pairs = np.unique(np.stack([table.problem_ids, table.groups]), axis=1)[0]
    repeated = pairs[1:] == pairs[:-1]
    if repeated.any():
        raise DataError(
            f"Samples of problem {str(pairs[1:][repeated][0])!r} are in several groups.",
            hint="Group by something that all samples of a problem share.",
        )
    return [None, *(Group(column=by, value=str(value)) for value in np.unique(table.groups))]


def members(table: TraceTable, group: Group | None) -> TraceTable:
    """Return the traces of a group; all of them for None."""
    if group is None:
        return table
    return table.select(np.flatnonzero(table.groups == group.value))
