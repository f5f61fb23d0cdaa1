"""A recorded data set: opened whole and checked, or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from lynxstop.artifacts import atomic
from lynxstop.collect import shards
from lynxstop.collect.schema import CUES, SCHEMA_VERSION, TRACES, Meta
from lynxstop.engines.types import Tokens
from lynxstop.errors import DataError, StepError
from lynxstop.extras import need

META = "meta.json"


class DataSet:
    """Full traces, their cue events and the features there; make one with `open`.

    Attributes
    ----------
    path : Path
    meta : Meta
        How it was recorded.
    """

    def __init__(
        self,
        path: Path,
        meta: Meta,
        traces: Any,
        cues: Any,
        features: list[NDArray[np.float32]],
        counts: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.path = path
        self.meta = meta
        self._traces = traces
        self._cues = cues
        self._features = features
        self._counts = counts

    @classmethod
    def open(cls, path: str | Path, *, partial: bool = False, verify: bool = True) -> Self:
        """Open a recorded data set.

        Parameters
        ----------
        path : path
        partial : bool
            Take the complete shards of an unfinished collection instead of refusing it.
        verify : bool
            Compare all files with their digests; without it only shapes, columns and identity are checked.

        Raises
        ------
        StepError
            When there is no data set, or an unfinished one.
        DataError
            When a shard is missing, damaged, of another recording or of another version.
        """
        path = Path(path)
        meta = read_meta(path)
        done = [number for number in range(meta.shards) if shards.is_complete(path, number)]
        if meta.digests is None and not (partial and done):
            raise StepError(
                f"The collection in {path} is unfinished: {len(done)} of {meta.shards} shards are complete.",
                hint="Run the same `lynxstop collect` command again to finish it.",
            )
        if meta.digests is not None:
            _check_files(path, meta.digests)
            done = list(range(meta.shards))
        tables = [read_shard(path, meta, number, verify) for number in done]
        arrow = need("pyarrow", "calibrate")
        traces = arrow.concat_tables([table[0] for table in tables])
        cues = arrow.concat_tables([table[1] for table in tables])
        if len(set(traces["trace_id"].to_pylist())) != len(traces):
            raise DataError(f"A trace occurs twice in {path}.", hint="Collect into a new folder.")
        counts = [(number, len(table[0])) for number, table in zip(done, tables, strict=True)]
        return cls(path, meta, traces, cues, [table[2] for table in tables], counts)

    def traces(self) -> Any:
        """The trace table: a pyarrow table with the columns of `lynxstop.collect.schema.TRACES`."""
        return self._traces

    def cues(self) -> Any:
        """The cue table: a pyarrow table with the columns of `lynxstop.collect.schema.CUES`, by trace."""
        return self._cues

    @property
    def layers(self) -> tuple[int, ...]:
        """Recorded layers, ascending, numbered as in `output_hidden_states`."""
        return self.meta.layers

    def features(
        self, layers: Sequence[int] | None = None, rows: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Read features, only as much as is asked for.

        Parameters
        ----------
        layers : sequence of int, optional
            Recorded layers to take; all by default.
        rows : array of bool, shape (cues,), optional
            Cues to take; all by default.

        Returns
        -------
        ndarray
            float32, shape (cues taken, layers taken * hidden): row i belongs to row i of the cue table.

        Raises
        ------
        DataError
            When a layer was not recorded.
        """
        wanted = self.layers if layers is None else tuple(layers)
        if missing := [layer for layer in wanted if layer not in self.layers]:
            raise DataError(
                f"Layers {missing} were not recorded; recorded: {list(self.layers)}.",
                hint="Choose recorded layers, or collect again with these.",
            )
        hidden, count = self.meta.hidden, len(self._cues)
        mask = np.ones(count, dtype=bool) if rows is None else rows
        result = np.empty((int(mask.sum()), len(wanted) * hidden), np.float32)
        read = written = 0
        for part in self._features:
            chosen = mask[read : read + len(part)]
            target = result[written : written + int(chosen.sum())]
            for place, layer in enumerate(wanted):
                start = self.layers.index(layer) * hidden
                target[:, place * hidden : (place + 1) * hidden] = part[:, start : start + hidden][chosen]
            read, written = read + len(part), written + len(target)
        return result

    def tokens(self) -> Iterator[Tokens]:
        """Read every trace's tokens and their statistics, in the order of the trace table, shard by shard."""
        lengths = (
            self._traces["thinking_tokens"].to_numpy() + self._traces["answer_tokens"].to_numpy()
        ).tolist()
        read = 0
        for number, count in self._counts:
            path = self.path / shards.names(number)[1]
            yield from shards.read_tokens(path, lengths[read : read + count], self.meta.key)
            read += count

    @property
    def digest(self) -> str:
        """SHA-256 over settings and files: equal for equal data, wherever and whenever it was recorded."""
        content = json.dumps([self.meta.key, self.meta.digests], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def problem_ids(self) -> tuple[str, ...]:
        """Ids of the problems, each once, in the order of the traces."""
        return tuple(dict.fromkeys(self._traces["problem_id"].to_pylist()))

    @property
    def whole(self) -> bool:
        """Whether every cue event has its forced exit; a certificate needs that, training does not."""
        return bool(np.array_equal(self._traces["events"].to_numpy(), self._traces["cues"].to_numpy()))


def read_meta(path: Path) -> Meta:
    """Read meta.json.

    Raises
    ------
    StepError
        When `path` holds no data set.
    DataError
        When it is damaged, or of another schema version.
    """
    try:
        content = json.loads((path / META).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StepError(
            f"There is no recorded data in {path}.", hint="Record some with `lynxstop collect`."
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path / META} is damaged.", hint="Restore it from a copy, or collect again."
        ) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path} was recorded with schema version {version}; this version reads {SCHEMA_VERSION}.",
            hint="Use the version of lynxstop that recorded it, or collect again.",
        )
    try:
        return Meta.model_validate(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise DataError(f"{path / META} is damaged at {where}.", hint="Collect again.") from error


def write_meta(path: Path, meta: Meta) -> None:
    """Write meta.json."""
    atomic.write_text(path / META, json.dumps(meta.model_dump(mode="json"), indent=1) + "\n")


def seal(path: Path, meta: Meta) -> Meta:
    """Write the digests of all shards into meta.json: the data set is then finished."""
    files = [name for number in range(meta.shards) for name in shards.names(number)]
    sealed = meta.model_copy(update={"digests": {name: atomic.sha256(path / name) for name in files}})
    write_meta(path, sealed)
    return sealed


def _check_files(path: Path, digests: dict[str, str]) -> None:
    """Refuse missing and additional shards; the digests themselves are compared where the shards are read."""
    found = {file.name for pattern in ("*.parquet", "*.safetensors") for file in path.glob(pattern)}
    if strange := sorted(found ^ digests.keys()):
        what = "is missing" if strange[0] in digests else "does not belong to this data set"
        raise DataError(
            f"{path / strange[0]} {what}.", hint="Restore the folder from a copy, or collect again."
        )


def read_shard(
    path: Path, meta: Meta, number: int, verify: bool = True
) -> tuple[Any, Any, NDArray[np.float32]]:
    """Read traces, cues and mapped features of a shard.

    Raises
    ------
    DataError
        When a file is missing, damaged, of another recording, or, with `verify`, not as it was recorded.
    """
    of_features, of_tokens, of_cues, of_traces = shards.names(number)
    traces = shards.read_table(path / of_traces, TRACES, meta.key)
    cues = shards.read_table(path / of_cues, CUES, meta.key)
    features = shards.map_features(path / of_features, len(cues), meta.width, meta.key)
    counts, ids = traces["cues"].to_pylist(), traces["trace_id"].to_pylist()
    owners = [name for name, count in zip(ids, counts, strict=True) for _ in range(count)]
    if owners != cues["trace_id"].to_pylist():
        raise DataError(f"The cues in {path / of_cues} do not belong to the traces beside them.")
    if verify:
        expected = {**shards.read_parts(traces), **(meta.digests or {})}
        for name in (of_features, of_tokens, of_cues, of_traces):
            if name in expected and atomic.sha256(path / name) != expected[name]:
                raise DataError(
                    f"{path / name} was changed or damaged after it was recorded.",
                    hint="Restore it from a copy, or collect again.",
                )
    return traces, cues, features
