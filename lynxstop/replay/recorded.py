"""A recorded data set, scored by a probe or a rule, as a table of traces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.losses import recorded_loss
from lynxstop.calibration.traces import TraceTable
from lynxstop.core.policy import StopPolicy
from lynxstop.errors import DataError
from lynxstop.recordings.storage import Recording
from lynxstop.replay.exits import read_exits


def from_recorded(
    data: Recording,
    scores: NDArray[np.float32],
    *,
    loss: str = "disagree",
    guards: StopPolicy | None = None,
    by: str | None = None,
    split: str | None = None,
    abstains: bool = False,
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
    table = exits.scored(own, chosen, groups)
    if split is None:
        return table
    wanted = exits.trace_ids[np.array(traces["split"].to_pylist()) == split]
    if not len(wanted):
        raise DataError(f"No recorded trace is of the split {split!r}.")
    return table.select(np.isin(table.trace_ids, wanted))
