"""What a data set holds: read from its shards when asked for, or given in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts import atomic
from lynxstop.core.types import Tokens
from lynxstop.errors import DataError
from lynxstop.extras import need
from lynxstop.recordings import shards
from lynxstop.recordings.schema import CUES, TRACES, Instalment, Meta
from lynxstop.recordings.store import Store


class Content(Protocol):
    """Tables, features and tokens of a data set, in its order."""

    cue_count: int

    def table(self, name: str, columns: Sequence[str] | None) -> Any:
        """The table "traces" or "cues", or some columns of it."""
        ...

    def features(self) -> Iterator[NDArray[np.float32]]:
        """Features, part by part: shape (cues of the part, width)."""
        ...

    def tokens(self) -> Iterator[Tokens]:
        """Tokens of every trace."""
        ...


class Shard(NamedTuple):
    """What is known of a shard without holding its content."""

    number: int
    key: str
    trace_ids: list[str]
    cues: int


class Stored:
    """Content of checked shards; a table that is asked for whole is held in memory."""

    def __init__(self, store: Store, width: int, parts: Sequence[Shard]) -> None:
        self._store = store
        self._width = width
        self._shards = parts
        self.cue_count = sum(part.cues for part in parts)
        self._held: dict[str, Any] = {}

    def table(self, name: str, columns: Sequence[str] | None) -> Any:
        """Read a table, or only some columns of it."""
        if name in self._held:
            return self._held[name] if columns is None else self._held[name].select(list(columns))
        place, kinds = {"traces": (-1, TRACES), "cues": (-2, CUES)}[name]
        table = need("pyarrow", "calibrate").concat_tables(
            shards.read_table(self._store, shards.names(part.number)[place], kinds, part.key, columns)
            for part in self._shards
        )
        if columns is None:
            self._held[name] = table
        return table

    def features(self) -> Iterator[NDArray[np.float32]]:
        """Map the features of one shard after the other."""
        for part in self._shards:
            name = shards.names(part.number)[0]
            yield shards.map_features(self._store, name, part.cues, self._width, part.key)

    def tokens(self) -> Iterator[Tokens]:
        """Read the tokens, shard by shard."""
        counts = ["thinking_tokens", "answer_tokens"]
        for part in self._shards:
            _, of_tokens, _, of_traces = shards.names(part.number)
            table = shards.read_table(self._store, of_traces, TRACES, part.key, counts)
            lengths = (table[counts[0]].to_numpy() + table[counts[1]].to_numpy()).tolist()
            yield from shards.read_tokens(self._store, of_tokens, lengths, part.key)


class InMemory:
    """Content given as pyarrow tables and arrays, without tokens."""

    def __init__(self, traces: Any, cues: Any, features: Sequence[NDArray[np.float32]]) -> None:
        self._tables = {"traces": traces, "cues": cues}
        self._features = features
        self.cue_count = len(cues)

    def table(self, name: str, columns: Sequence[str] | None) -> Any:
        """Take a table, or only some columns of it."""
        table = self._tables[name]
        return table if columns is None else table.select(list(columns))

    def features(self) -> Iterator[NDArray[np.float32]]:
        """Take the features, part by part."""
        return iter(self._features)

    def tokens(self) -> Iterator[Tokens]:
        """Take none."""
        return iter(())


def check_shard(store: Store, meta: Meta, number: int, part: Instalment, verify: bool = True) -> Shard:
    """Check that the files of a shard are of this recording and belong together; keep its trace ids.

    Raises
    ------
    DataError
        When a file is missing, damaged, of another recording, or, with `verify`, not as it was recorded.
    """
    names = shards.names(number)
    of_features, _, of_cues, of_traces = names
    traces = shards.read_table(store, of_traces, TRACES, part.key, ["trace_id", "cues"])
    cues = shards.read_table(store, of_cues, CUES, part.key, ["trace_id"])["trace_id"].to_pylist()
    counts, ids = traces["cues"].to_pylist(), traces["trace_id"].to_pylist()
    if verify or store.near:
        shards.map_features(store, of_features, len(cues), meta.width, part.key)
    owners = [name for name, count in zip(ids, counts, strict=True) for _ in range(count)]
    if owners != cues:
        raise DataError(f"The cues in {store}/{of_cues} do not belong to the traces beside them.")
    if verify:
        expected = {**shards.read_parts(traces), **(meta.digests or {})}
        for name in names:
            if name in expected and atomic.sha256(store.local(name)) != expected[name]:
                raise DataError(
                    f"{store}/{name} was changed or damaged after it was recorded.",
                    hint="Restore it from a copy, or collect again.",
                )
    return Shard(number, part.key, ids, len(cues))
