"""A recorded data set, scored by a probe, as a table of traces."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.losses import recorded_loss
from lynxstop.calibration.traces import TraceTable
from lynxstop.core.points import CUE, of_kind
from lynxstop.core.policy import StopPolicy
from lynxstop.core.rule import eligible_mask
from lynxstop.errors import DataError


class Recorded(Protocol):
    """What is read of a data set: two pyarrow tables, see `lynxstop.recordings.schema`."""

    @property
    def whole(self) -> bool:
        """Whether every cue event has its forced exit."""

    def traces(self) -> Any:
        """One row per trace."""

    def cues(self) -> Any:
        """One row per cue event, ordered as the traces."""


def from_recorded(
    data: Recorded,
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
    data : Recorded
        As `lynxstop.recordings.storage.DataSet`.
    scores : float32, shape (cues,)
        One per row of the cue table.
    loss : str
        One of `LOSSES`. The loss of an exit answer that was not parsed, or timed out, is unknown.
    guards : StopPolicy, optional
        Its guards decide which cues are eligible.
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
    about = recorded_loss(loss)
    if not data.whole:
        raise DataError(
            "Some cues were recorded without their forced exit, so an exit there could not be judged.",
            hint="Collect again without a limit of cues per trace.",
        )
    traces, cues = data.traces(), data.cues()
    absent = [name for name in (by, split and "split") if name and name not in traces.column_names]
    if absent:
        raise DataError(f"The recorded traces have no column {absent[0]!r}.")
    if len(scores) != len(cues):
        raise DataError(f"{len(cues)} cues were recorded, but {len(scores)} scores were given.")
    counts = traces["cues"].to_numpy()
    owner = np.repeat(np.arange(len(traces)), counts)
    asked = of_kind(cues, CUE if guards is None else guards.points)
    keep = _eligible(guards, cues["position"].to_numpy(), owner, asked)
    if abstains:
        keep &= ~np.isnan(scores)
    table = TraceTable.from_arrays(
        trace_ids=traces["trace_id"].to_pylist(),
        problem_ids=traces["problem_id"].to_pylist(),
        lengths=np.bincount(owner[keep], minlength=len(traces)),
        scores=np.asarray(scores)[keep],
        losses=_losses(about.name, traces, cues, owner)[keep],
        tokens=cues["thinking_at_exit"].to_numpy()[keep],
        full_tokens=traces["thinking_tokens"].to_numpy(),
        groups=None if by is None else ["" if v is None else str(v) for v in traces[by].to_pylist()],
    )
    if split is None:
        return table
    chosen = np.array(traces["trace_id"].to_pylist())[np.array(traces["split"].to_pylist()) == split]
    if not len(chosen):
        raise DataError(f"No recorded trace is of the split {split!r}.")
    return table.select(np.isin(table.trace_ids, chosen))


def _eligible(
    guards: StopPolicy | None,
    positions: NDArray[np.int64],
    owner: NDArray[np.int64],
    asked: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Of the points asked about, those that the guards let through."""
    if guards is None or not guards.guarded:
        return asked
    keep = asked.copy()
    starts = np.searchsorted(owner[asked], np.arange(1, int(owner.max(initial=0)) + 1))
    parts = np.split(positions[asked], starts)
    keep[asked] = np.concatenate([eligible_mask(guards, part) for part in parts])
    return keep


def _losses(name: str, traces: Any, cues: Any, owner: NDArray[np.int64]) -> NDArray[np.float64]:
    """Losses per cue, NaN = unknown."""
    parsed = _equal(cues["trial_status"], "parsed")
    if name == "disagree":
        known = parsed & _equal(traces["full_status"], "parsed")[owner]
        return np.where(known, 1.0 - _truth(cues["agrees"]), np.nan)
    wrong = np.where(parsed, 1.0 - _truth(cues["right"]), np.nan)
    if name != "harm":
        return wrong
    full_right = _truth(traces["full_right"])[owner]
    # An exit does no harm when its answer is right or the full one is wrong, whatever the other is.
    return np.where((wrong == 0) | (full_right == 0), 0.0, wrong * full_right)


def _truth(column: Any) -> NDArray[np.float64]:
    """Booleans as floats, null as NaN."""
    return np.array([np.nan if value is None else value for value in column.to_pylist()], dtype=np.float64)


def _equal(column: Any, value: str) -> NDArray[np.bool_]:
    return np.array([item == value for item in column.to_pylist()], dtype=bool)
