"""Recorded decision points as arrays or Arrow tables, ready for scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.points import CUE
from lynxstop.core.policy import StopPolicy
from lynxstop.errors import ConfigError, DataError
from lynxstop.extras import need
from lynxstop.probes.target import Target, target_named
from lynxstop.recordings.kinds import of_kind
from lynxstop.recordings.storage import Recording
from lynxstop.replay.points import read_points
from lynxstop.rules.learned import LogprobProbe

Features = Literal["hidden", "logprobs", "both"]


@dataclass(frozen=True, slots=True, eq=False)
class ProbeData:
    """Features of cues, what an exit there would give, and the problem each belongs to.

    Attributes
    ----------
    X : ndarray
        float32, shape (cues, columns). A log-probability signal that is undefined at a cue is NaN.
    y : ndarray
        bool, shape (cues,): whether an exit there is right.
    groups : ndarray
        Problem ids as objects, shape (cues,): what every split must keep whole.
    trace_ids : ndarray
        Shape (cues,).
    rows : ndarray
        int64, shape (cues,): places in the cue table of the data set.
    names : tuple of str
        Of the columns: ``hidden:LAYER:UNIT``, then the keys of the signals.
    layers : tuple of int
        Layers of the hidden states; empty without.
    """

    X: NDArray[np.float32]
    y: NDArray[np.bool_]
    groups: NDArray[Any]
    trace_ids: NDArray[Any]
    rows: NDArray[np.int64]
    names: tuple[str, ...]
    layers: tuple[int, ...]

    def arrow(self) -> Any:
        """Return a pyarrow table: trace_id, problem_id, row, y, and X as lists of fixed size, not copied."""
        arrow = need("pyarrow", "calibrate")
        flat = arrow.array(np.ascontiguousarray(self.X).ravel())
        lists = arrow.FixedSizeListArray.from_arrays(flat, self.X.shape[1])
        columns = {
            "trace_id": arrow.array(self.trace_ids.tolist(), arrow.string()),
            "problem_id": arrow.array(self.groups.tolist(), arrow.string()),
            "row": arrow.array(self.rows),
            "y": arrow.array(self.y),
            "X": lists,
        }
        return arrow.table(columns).replace_schema_metadata({"names": ",".join(self.names)})


def load(
    source: Recording | str | PathLike[str],
    *,
    features: Features = "hidden",
    layers: Sequence[int] | None = None,
    target: Target = "agrees",
) -> ProbeData:
    """Load recorded cues whose target is known.

    Parameters
    ----------
    source : Recording or path
        What `lynxstop collect` wrote.
    features : {"hidden", "logprobs", "both"}
        Hidden states; the signals of the rule `logprob-probe`; or the first, then the second.
    layers : sequence of int, optional
        Recorded layers of the hidden states; all by default.
    target : {"agrees", "right"}
        The exit answer equals the full trace's, or gold.

    Raises
    ------
    ConfigError
        On an unknown kind of features or target.
    DataError
        When no hidden states or not this layer were recorded, or the target is known nowhere.
    """
    if features not in ("hidden", "logprobs", "both"):
        raise ConfigError(f"There are no features {features!r}.", hint="Features: hidden, logprobs, both.")
    target_named(target)
    data = source if isinstance(source, Recording) else Recording.open(Path(source))
    cues, traces = data.cues(), data.traces()
    values = cues[target].to_pylist()
    known = np.array([value is not None for value in values], dtype=bool) & of_kind(cues, CUE)
    if not known.any():
        raise DataError(
            f"The target {target!r} is not known at any cue.",
            hint="'agrees' needs no gold answers; 'right' needs problems with answers.",
        )
    chosen = tuple(sorted(data.layers if layers is None else layers)) if features != "logprobs" else ()
    if features != "logprobs" and not chosen:
        raise DataError("The data hold no hidden states.", hint='Load features="logprobs" instead.')
    parts: list[NDArray[np.float32]] = []
    names: list[str] = []
    if features != "logprobs":
        parts.append(data.features(chosen, known))
        names += [f"hidden:{layer}:{unit}" for layer in chosen for unit in range(data.meta.hidden)]
    if features != "hidden":
        parts.append(_signals(data, known))
        names += LogprobProbe.keys
    return ProbeData(
        X=parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1),
        y=np.array([bool(value) for value in values], dtype=bool)[known],
        groups=np.repeat(_objects(traces["problem_id"]), traces["cues"].to_numpy())[known],
        trace_ids=_objects(cues["trace_id"])[known],
        rows=np.flatnonzero(known),
        names=tuple(names),
        layers=chosen,
    )


def _signals(data: Recording, known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Signals at the chosen cues, streamed as they are live."""
    keys = LogprobProbe.keys
    values = np.full((len(known), len(keys)), np.nan, np.float32)
    logits = np.full(len(known), np.nan, np.float32)
    table = read_points(data, keys, logits, StopPolicy(exit_ids=data.meta.exit_ids))
    points = (point for own in table.points for point in own)
    for row, point in zip(table.rows, points, strict=True):
        values[row] = [point.signals[key] for key in keys]
    values[~np.isfinite(values)] = np.nan
    return values[known]


def _objects(column: Any) -> NDArray[Any]:
    return np.array(column.to_pylist(), dtype=object)
