"""One shard: four files that appear together, or not at all."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lynxstop.core.statistics import WIDTH, unknown
from lynxstop.core.types import Tokens
from lynxstop.errors import DataError
from lynxstop.extras import need
from lynxstop.recordings.schema import CUES, LATER, TRACES
from lynxstop.recordings.store import Store

_KEY, _PARTS = b"lynxstop.key", b"lynxstop.parts"
_DAMAGED = "Delete the folder and collect again, or restore the file from a copy."
_FOREIGN = "Remove it, or collect into a new folder."


def names(number: int) -> tuple[str, str, str, str]:
    """File names of a shard, in the order they are written; the last one completes it."""
    return (
        f"features-{number:05d}.safetensors",
        f"tokens-{number:05d}.safetensors",
        f"cues-{number:05d}.parquet",
        f"traces-{number:05d}.parquet",
    )


def write_shard(
    store: Store,
    number: int,
    key: str,
    traces: Sequence[Mapping[str, Any]],
    cues: Sequence[Mapping[str, Any]],
    features: NDArray[np.float32],
    tokens: Sequence[Tokens],
) -> None:
    """Write a shard; the trace table comes last and holds the digests of the other files.

    Parameters
    ----------
    traces, cues : sequences of rows
        The cues in the order of the traces.
    features : ndarray
        float32, shape (cues, width).
    tokens : sequence of Tokens
        Of each trace.

    Raises
    ------
    DataError
        When the disk is full; the shard then counts as not written.
    """
    of_features, of_tokens, of_cues, of_traces = names(number)
    parts = {
        of_features: _put(
            store, of_features, save({"features": np.ascontiguousarray(features)}, {"key": key})
        ),
        of_tokens: _put(store, of_tokens, save(_tensors(tokens), {"key": key})),
        of_cues: _put(store, of_cues, _table_bytes(cues, CUES, {_KEY: key.encode()})),
    }
    metadata = {_KEY: key.encode(), _PARTS: json.dumps(parts).encode()}
    store.write(of_traces, _table_bytes(traces, TRACES, metadata))


def complete(store: Store, numbers: range) -> list[int]:
    """Which of these shards were written to their end."""
    found = store.names()
    return [number for number in numbers if names(number)[-1] in found]


def _unreadable(store: Store, name: str, error: Exception) -> DataError:
    """Say whether a file is another user's alone, or no good."""
    if isinstance(error, PermissionError):
        return DataError(
            f"{store}/{name} cannot be read: Permission denied.",
            hint="The user that this runs as must be able to read the whole folder.",
        )
    return DataError(f"{store}/{name} is missing or damaged.", hint=_DAMAGED)


def read_table(
    store: Store, name: str, columns: Mapping[str, str], key: str, wanted: Sequence[str] | None = None
) -> Any:
    """Read a table of a shard, or the columns `wanted` of it, as a pyarrow table.

    Raises
    ------
    DataError
        When it is missing, damaged, of another recording, or has other columns.
    """
    arrow, parquet = need("pyarrow", "calibrate"), need("pyarrow.parquet", "calibrate")
    try:
        with parquet.ParquetFile(store.local(name), page_checksum_verification=True) as file:
            schema = file.schema_arrow
            absent = LATER & (columns.keys() - set(schema.names))
            table = file.read([one for one in wanted or schema.names if one not in absent])
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(store, name, error) from error
    if (schema.metadata or {}).get(_KEY) != key.encode():
        raise DataError(f"{store}/{name} belongs to another recording.", hint=_FOREIGN)
    if schema.remove_metadata() != _schema({n: kind for n, kind in columns.items() if n not in absent}):
        raise DataError(
            f"{store}/{name} has other columns than this version writes.", hint="Collect the data again."
        )
    for one in wanted or columns:
        if one in absent:
            kind = arrow.type_for_alias(columns[one])
            table = table.append_column(arrow.field(one, kind), arrow.nulls(len(table), kind))
    return table.select(list(wanted or columns))


def digests(store: Store, number: int) -> dict[str, str]:
    """SHA-256 of the files of a complete shard, as they were when it was written.

    Raises
    ------
    DataError
        When its trace table is missing or damaged.
    """
    parquet, arrow = need("pyarrow.parquet", "calibrate"), need("pyarrow", "calibrate")
    name = names(number)[-1]
    try:
        content = store.read(name)
        schema = parquet.read_schema(arrow.BufferReader(content))
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(store, name, error) from error
    return {**_parts(schema), name: hashlib.sha256(content).hexdigest()}


def table_of(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Any:
    """Return rows as a pyarrow table of these columns."""
    return need("pyarrow", "calibrate").Table.from_pylist(list(rows), schema=_schema(columns))


def read_parts(traces: Any) -> dict[str, str]:
    """Digests of a shard's other files, as its trace table holds them."""
    return _parts(traces.schema)


def map_features(store: Store, name: str, rows: int, width: int, key: str) -> NDArray[np.float32]:
    """Map the features of a shard into memory; nothing is read before it is used.

    Raises
    ------
    DataError
        When the file is missing, damaged, of another recording, or of another shape.
    """
    try:
        path = store.local(name)
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 1 << 20)))
        entry = header["features"]
        start, end = entry["data_offsets"]
        sound = end - start == 4 * rows * width and path.stat().st_size == 8 + length + end
        shape, kind, found = entry["shape"], entry["dtype"], header["__metadata__"]["key"]
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise _unreadable(store, name, error) from error
    if found != key:
        raise DataError(f"{store}/{name} belongs to another recording.", hint=_FOREIGN)
    if not sound or shape != [rows, width] or kind != "F32":
        raise DataError(
            f"{store}/{name} does not hold {rows} rows of {width} float32 numbers.", hint=_DAMAGED
        )
    if not rows * width:
        return np.empty((rows, width), np.float32)
    return np.memmap(path, np.float32, "r", offset=8 + length + start, shape=(rows, width))


def read_tokens(store: Store, name: str, lengths: Sequence[int], key: str) -> list[Tokens]:
    """Read the recorded tokens of a shard, one entry per trace.

    Raises
    ------
    DataError
        When the file is missing, damaged, of another recording, or not about traces of these lengths.
    """
    try:
        with safe_open(store.local(name), framework="numpy") as file:
            found = (file.metadata() or {}).get("key")
            ids, thinking, statistics = (file.get_tensor(name) for name in ("ids", "thinking", "statistics"))
    except (SafetensorError, OSError) as error:
        raise _unreadable(store, name, error) from error
    if found != key:
        raise DataError(f"{store}/{name} belongs to another recording.", hint=_FOREIGN)
    total = sum(lengths)
    if ids.shape != (total,) or thinking.shape != (total,) or statistics.shape != (total, WIDTH):
        raise DataError(f"{store}/{name} does not hold {total} tokens.", hint=_DAMAGED)
    ends = np.cumsum(lengths)[:-1]
    parts = (np.split(values, ends) for values in (ids, (thinking & 1) > 0, statistics, thinking >> 1))
    return [Tokens(*part) for part in zip(*parts, strict=True)] if len(lengths) else []


def _put(store: Store, name: str, content: bytes) -> str:
    store.write(name, content)
    return hashlib.sha256(content).hexdigest()


def _parts(schema: Any) -> dict[str, str]:
    parts: dict[str, str] = json.loads(schema.metadata[_PARTS])
    return parts


def _tensors(tokens: Sequence[Tokens]) -> dict[str, NDArray[Any]]:
    return {
        "ids": np.concatenate([np.zeros(0, np.int32), *(trace.ids for trace in tokens)]),
        "thinking": np.concatenate([np.zeros(0, np.uint8), *map(_flags, tokens)]),
        "statistics": np.concatenate([unknown(0), *(trace.statistics for trace in tokens)]),
    }


def _flags(trace: Tokens) -> NDArray[np.uint8]:
    """Whether a token is a thinking token in the lowest bit, and skipped decision points above it."""
    flags: NDArray[np.uint8] = trace.thinking.astype(np.uint8)
    if trace.skipped is not None:
        flags |= np.left_shift(trace.skipped, 1, dtype=np.uint8)
    return flags


def _schema(columns: Mapping[str, str]) -> Any:
    arrow = need("pyarrow", "calibrate")
    return arrow.schema([(name, arrow.type_for_alias(kind)) for name, kind in columns.items()])


def _table_bytes(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], metadata: dict[bytes, bytes]
) -> bytes:
    arrow, parquet = need("pyarrow", "calibrate"), need("pyarrow.parquet", "calibrate")
    table = table_of(rows, columns).replace_schema_metadata(metadata)
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content
