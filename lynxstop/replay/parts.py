"""Parts of a recorded data set, made of whole problems."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.repeats import joined_ids
from lynxstop.core.types import Tokens
from lynxstop.errors import DataError
from lynxstop.recordings.storage import Recording

PARTS = {"train": 0.3, "calibration": 0.4, "test": 0.3}
"""Shares of the problems."""


class DataPart:
    """Some traces of a data set, in its order: what training and replay read of it.

    Parameters
    ----------
    data : Recording
    chosen : bool, shape (traces,)
    """

    def __init__(self, data: Recording, chosen: NDArray[np.bool_]) -> None:
        self.data, self.chosen = data, chosen
        self.meta = data.meta
        self.cue_rows = np.repeat(chosen, data.traces()["cues"].to_numpy())

    def traces(self) -> Any:
        """Return the trace table of the part."""
        return self.data.traces().filter(self.chosen)

    def cues(self) -> Any:
        """Return the cue table of the part."""
        return self.data.cues().filter(self.cue_rows)

    @property
    def layers(self) -> tuple[int, ...]:
        """Recorded layers."""
        return self.data.layers

    @property
    def problem_ids(self) -> tuple[str, ...]:
        """Ids of the problems, each once."""
        return tuple(dict.fromkeys(self.traces()["problem_id"].to_pylist()))

    def features(
        self, layers: Sequence[int] | None = None, rows: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Features of the part's cues, or of the chosen `rows` of them."""
        wanted = self.cue_rows.copy()
        if rows is not None:
            wanted[self.cue_rows] = rows
        return self.data.features(layers, wanted)

    def tokens(self) -> Iterator[Tokens]:
        """Tokens of the part's traces."""
        return (tokens for tokens, taken in zip(self.data.tokens(), self.chosen, strict=True) if taken)


Recorded = Recording | DataPart
"""A data set, or a part of one."""


def parts_of(data: Recording, seed: int = 0) -> dict[str, DataPart]:
    """Split a data set by problem; problems that share a prompt are one.

    The recorded splits are taken when all three are there; else a digest of the problem's id and the seed
    decides, so that a problem keeps its part when others come or go.

    Raises
    ------
    DataError
        When a part would be empty.
    """
    traces = data.traces()
    recorded = np.array([split or "" for split in traces["split"].to_pylist()])
    if not set(PARTS) <= set(recorded.tolist()):
        problems = np.array(traces["problem_id"].to_pylist(), dtype=np.str_)
        if "prompt_sha256" in traces.column_names:
            prompts = ["" if one is None else one for one in traces["prompt_sha256"].to_pylist()]
            problems = joined_ids(problems, np.array(prompts, dtype=np.str_))
        places = np.array([_place(problem, seed) for problem in problems.tolist()])
        edges = np.cumsum(list(PARTS.values()))[:-1]
        recorded = np.array(list(PARTS))[np.searchsorted(edges, places, side="right")]
    parts = {name: DataPart(data, np.asarray(recorded == name, bool)) for name in PARTS}
    for name, part in parts.items():
        if not part.chosen.any():
            raise DataError(
                f"No problem falls into the part {name!r}.",
                hint="Collect more problems: hundreds are needed.",
            )
    return parts


def _place(problem: str, seed: int) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}/{problem}".encode()).digest()[:7], "big") / (1 << 56)


def spread(data: Recording, most: int) -> DataPart:
    """Return at most `most` traces, spread evenly over the data."""
    count = len(data.traces())
    chosen = np.zeros(count, bool)
    chosen[np.linspace(0, count - 1, min(most, count)).round().astype(int)] = True
    return DataPart(data, chosen)
