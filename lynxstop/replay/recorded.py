"""A recorded data set, scored by a probe or a rule, as a table of traces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.losses import recorded_loss
from lynxstop.calibration.subgroups import MOST, labels_of
from lynxstop.calibration.traces import TraceTable
from lynxstop.core.policy import StopPolicy
from lynxstop.errors import DataError
from lynxstop.recordings.storage import Recording
from lynxstop.replay.exits import read_exits

_USUAL = ("family", "difficulty")


def from_recorded(
    data: Recording,
    scores: NDArray[np.float32],
    *,
    loss: str = "disagree",
    guards: StopPolicy | None = None,
    by: str | None = None,
    split: str | None = None,
    abstains: bool = False,
    subgroups: Sequence[str] | None = None,
) -> TraceTable:
    """Read a recorded data set.

    Parameters
    ----------
    data : Recording
    scores : float32, shape (cues,)
        One per row of the cue table.
    loss : str
        One of `LOSSES`. The loss of an exit answer that was not parsed, or timed out, is unknown.
    guards : StopPolicy, optional
        Its guards and kinds of decision points decide which are eligible.
    by : str, optional
        Column of the traces to group by.
    split : str, optional
        Take only the traces of this split.
    abstains : bool
        Leave points with a score of NaN out: a rule abstains there. Else they are an error.
    subgroups : sequence of str, optional
        Columns, or keys of the metadata, to count apart, beside family and difficulty; None counts none.

    Raises
    ------
    ConfigError
        When there is no such loss.
    DataError
        When cues were left out in recording, or the columns or the number of scores do not fit.
    """
    chosen = recorded_loss(loss)
    if not data.whole:
        raise DataError(
            "Some cues were recorded without their forced exit, so an exit there could not be judged.",
            hint="Collect again without a limit of cues per trace.",
        )
    traces = data.traces()
    absent = [name for name in (by, split and "split") if name and name not in traces.column_names]
    if absent:
        raise DataError(f"The recorded traces have no column {absent[0]!r}.")
    if len(scores) != (count := len(data.cues())):
        raise DataError(f"{count} cues were recorded, but {len(scores)} scores were given.")
    exits = read_exits(data, guards)
    own = np.asarray(scores)[exits.rows]
    if np.isnan(own).any() and not abstains:
        where = exits.trace_ids[exits.owners[np.isnan(own)][0]]
        raise DataError(
            f"A score of trace {str(where)!r} is NaN.", hint="Score every cue with a finite number."
        )
    groups = None if by is None else ["" if v is None else str(v) for v in traces[by].to_pylist()]
    table = exits.scored(own, chosen, groups, None if subgroups is None else _labels(traces, subgroups))
    if split is None:
        return table
    wanted = exits.trace_ids[np.array(traces["split"].to_pylist()) == split]
    if not len(wanted):
        raise DataError(f"No recorded trace is of the split {split!r}.")
    return table.select(np.isin(table.trace_ids, wanted))


def _labels(traces: Any, further: Sequence[str]) -> NDArray[np.str_] | None:
    """Label traces by family and difficulty, where these tell some apart, and by further columns."""
    found = []
    for name in dict.fromkeys((*_USUAL, *further)):
        if name in traces.column_names:
            values = traces[name].to_pylist()
        elif name in further and "metadata" in traces.column_names:
            values = [json.loads(text or "{}").get(name) for text in traces["metadata"].to_pylist()]
        else:
            values = []
        if name in further and not any(value is not None for value in values):
            raise DataError(
                f"The recorded traces have no column {name!r}, so that it has no subgroups.",
                hint="Name a column of the problems that were collected.",
            )
        if name in further or 1 < len(set(values)) <= MOST:
            found.append(labels_of(name, values))
    return np.stack(found, axis=1) if found else None
