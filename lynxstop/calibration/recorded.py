"""A recorded data set, scored by a probe, as a table of traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.losses import recorded_loss
from lynxstop.calibration.traces import TraceTable
from lynxstop.core.policy import StopPolicy
from lynxstop.core.rule import eligible_mask
from lynxstop.errors import DataError, StepError
from lynxstop.extras import need

_CUES = ("trace_id", "cue", "position", "thinking_at_exit", "trial_status", "right", "agrees")
_TRACES = ("trace_id", "problem_id", "thinking_tokens", "full_status", "full_right")


def from_recorded(
    data: Path,
    scores: NDArray[np.float32],
    *,
    loss: str = "disagree",
    guards: StopPolicy | None = None,
    by: str | None = None,
    split: str | None = None,
) -> TraceTable:
    """Read a recorded data set.

    Parameters
    ----------
    data : Path
        Folder with `traces-*.parquet` and `cues-*.parquet`.
    scores : float32, shape (cues,)
        One per cue of the data set, in the order of the files.
    loss : str
        One of `LOSSES`. An exit answer that was not parsed, timed out or was never forced is unknown.
    guards : StopPolicy, optional
        Its minimum of tokens and cooldown decide which cues are eligible.
    by : str, optional
        Column of the traces to group by.
    split : str, optional
        Take only the traces of this split.

    Raises
    ------
    StepError
        When nothing was recorded there.
    DataError
        When the files do not fit each other or the scores.
    """
    about = recorded_loss(loss)
    traces, cues = _read(data, by)
    identity = traces["trace_id"].astype(np.str_)
    order = np.argsort(identity)
    found = np.searchsorted(identity, cues["trace_id"].astype(np.str_), sorter=order)
    owner = order[np.minimum(found, len(order) - 1)]
    if (identity[owner] != cues["trace_id"].astype(np.str_)).any():
        raise DataError(f"A cue in {data} belongs to no trace.", hint="Collect the data set again.")
    if len(scores) != len(owner):
        raise DataError(f"{data} has {len(owner)} cues but {len(scores)} scores were given.")
    if (np.diff(owner) != 0).sum() + (len(owner) > 0) != len(np.unique(owner)):
        raise DataError(f"The cues in {data} are not ordered by trace.")
    keep = _eligible(guards, cues["position"].astype(np.int64), owner)
    lost = _losses(about.name, cues, {name: values[owner] for name, values in traces.items()})
    by_trace = np.flatnonzero(keep)[np.argsort(owner[keep], kind="stable")]
    table = TraceTable.from_arrays(
        trace_ids=identity,
        problem_ids=traces["problem_id"].astype(np.str_),
        lengths=np.bincount(owner[keep], minlength=len(identity)),
        scores=np.asarray(scores)[by_trace],
        losses=lost[by_trace],
        tokens=cues["thinking_at_exit"][by_trace].astype(np.int64),
        full_tokens=traces["thinking_tokens"].astype(np.int64),
        groups=None if by is None else traces[by].astype(np.str_),
    )
    if split is None:
        return table
    chosen = identity[traces["split"] == split]
    if not len(chosen):
        raise DataError(f"{data} has no traces of the split {split!r}.")
    return table.select(np.isin(table.trace_ids, chosen))


def _read(data: Path, by: str | None) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    parts = sorted(data.glob("traces-*.parquet"))
    if not parts:
        raise StepError(f"There are no recorded traces in {data}.", hint="Run `lynxstop collect` first.")
    traces = [_columns(part, (*_TRACES, "split", *([by] if by else []))) for part in parts]
    cues = [_columns(part.with_name(part.name.replace("traces-", "cues-", 1)), _CUES) for part in parts]
    return tuple(  # type: ignore[return-value]
        {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
        for shards in (traces, cues)
    )


def _columns(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    arrow, parquet = need("pyarrow", "calibrate"), need("pyarrow.parquet", "calibrate")
    try:
        table = parquet.read_table(path)
        return {name: table.column(name).to_numpy() for name in dict.fromkeys(names)}
    except (OSError, KeyError, arrow.ArrowInvalid) as error:
        raise DataError(f"{path} is damaged or lacks a column: {str(error).splitlines()[0]}.") from error


def _eligible(
    guards: StopPolicy | None, positions: NDArray[np.int64], owner: NDArray[np.int64]
) -> NDArray[np.bool_]:
    if guards is None or not len(owner) or (guards.min_tokens == 0 and guards.cooldown == 0):
        return np.ones(len(owner), dtype=bool)
    cuts = np.flatnonzero(np.diff(owner)) + 1
    return np.concatenate([eligible_mask(guards, part) for part in np.split(positions, cuts)])


def _losses(name: str, cues: dict[str, NDArray[Any]], full: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Losses per cue, NaN = unknown; `full` holds the trace columns of each cue."""
    parsed = cues["trial_status"] == "parsed"
    if name == "disagree":
        known = parsed & (full["full_status"] == "parsed")
        return np.where(known, 1.0 - _truth(cues["agrees"]), np.nan)
    wrong = np.where(parsed, 1.0 - _truth(cues["right"]), np.nan)
    if name != "harm":
        return wrong
    full_right = np.where(full["full_status"] == "timeout", np.nan, _truth(full["full_right"]))
    # An exit does no harm when its answer is right or the full one is wrong, whatever the other is.
    return np.where((wrong == 0) | (full_right == 0), 0.0, wrong * full_right)


def _truth(values: NDArray[Any]) -> NDArray[np.float64]:
    """Booleans with None as floats with NaN."""
    return np.array(
        [np.nan if value is None else float(value) for value in values.tolist()], dtype=np.float64
    )
