"""One shard: four files that appear together, or not at all."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lynxstop.artifacts import atomic
from lynxstop.collect.schema import CUES, TRACES
from lynxstop.engines.types import Tokens
from lynxstop.errors import DataError
from lynxstop.extras import need

_KEY, _PARTS = b"lynxstop.key", b"lynxstop.parts"
_DAMAGED = "Delete the folder and collect again, or restore the file from a copy."


def names(number: int) -> tuple[str, str, str, str]:
    """File names of a shard, in the order they are written; the last one completes it."""
    return (
        f"features-{number:05d}.safetensors",
        f"tokens-{number:05d}.safetensors",
        f"cues-{number:05d}.parquet",
        f"traces-{number:05d}.parquet",
    )


def write_shard(
    folder: Path,
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
    atomic.write_bytes(folder / of_features, save({"features": np.ascontiguousarray(features)}, {"key": key}))
    atomic.write_bytes(folder / of_tokens, save(_tensors(tokens), {"key": key}))
    atomic.write_bytes(folder / of_cues, _table_bytes(cues, CUES, {_KEY: key.encode()}))
    parts = {name: atomic.sha256(folder / name) for name in (of_features, of_tokens, of_cues)}
    metadata = {_KEY: key.encode(), _PARTS: json.dumps(parts).encode()}
    atomic.write_bytes(folder / of_traces, _table_bytes(traces, TRACES, metadata))


def is_complete(folder: Path, number: int) -> bool:
    """Say whether a shard was written to its end."""
    return (folder / names(number)[-1]).is_file()


def read_table(path: Path, columns: Mapping[str, str], key: str) -> Any:
    """Read a table of a shard as a pyarrow table.

    Raises
    ------
    DataError
        When it is missing, damaged, of another recording, or has other columns.
    """
    arrow, parquet = need("pyarrow", "calibrate"), need("pyarrow.parquet", "calibrate")
    try:
        table = parquet.read_table(path, page_checksum_verification=True)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is missing or damaged.", hint=_DAMAGED) from error
    if (table.schema.metadata or {}).get(_KEY) != key.encode():
        raise DataError(
            f"{path} belongs to another recording.", hint="Remove it, or collect into a new folder."
        )
    if table.schema.remove_metadata() != _schema(columns):
        raise DataError(f"{path} has other columns than this version writes.", hint="Collect the data again.")
    return table


def read_parts(traces: Any) -> dict[str, str]:
    """Digests of a shard's other files, as its trace table holds them."""
    parts: dict[str, str] = json.loads(traces.schema.metadata[_PARTS])
    return parts


def map_features(path: Path, rows: int, width: int, key: str) -> NDArray[np.float32]:
    """Map the features of a shard into memory; nothing is read before it is used.

    Raises
    ------
    DataError
        When the file is missing, damaged, of another recording, or of another shape.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 1 << 20)))
        entry = header["features"]
        start, end = entry["data_offsets"]
        sound = end - start == 4 * rows * width and path.stat().st_size == 8 + length + end
        shape, kind, found = entry["shape"], entry["dtype"], header["__metadata__"]["key"]
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is missing or damaged.", hint=_DAMAGED) from error
    if found != key:
        raise DataError(
            f"{path} belongs to another recording.", hint="Remove it, or collect into a new folder."
        )
    if not sound or shape != [rows, width] or kind != "F32":
        raise DataError(f"{path} does not hold {rows} rows of {width} float32 numbers.", hint=_DAMAGED)
    if not rows:
        return np.empty((0, width), np.float32)
    return np.memmap(path, np.float32, "r", offset=8 + length + start, shape=(rows, width))


def read_tokens(path: Path, lengths: Sequence[int], key: str) -> list[Tokens]:
    """Read the recorded tokens of a shard, one entry per trace.

    Raises
    ------
    DataError
        When the file is missing, damaged, of another recording, or not about traces of these lengths.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            found = (file.metadata() or {}).get("key")
            ids, thinking, statistics = (file.get_tensor(name) for name in ("ids", "thinking", "statistics"))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is missing or damaged.", hint=_DAMAGED) from error
    if found != key:
        raise DataError(
            f"{path} belongs to another recording.", hint="Remove it, or collect into a new folder."
        )
    total = sum(lengths)
    if ids.shape != (total,) or thinking.shape != (total,) or statistics.shape != (total, 4):
        raise DataError(f"{path} does not hold {total} tokens.", hint=_DAMAGED)
    ends = np.cumsum(lengths)[:-1]
    parts = (np.split(values, ends) for values in (ids, thinking.astype(bool), statistics))
    return [Tokens(*part) for part in zip(*parts, strict=True)] if len(lengths) else []


def _tensors(tokens: Sequence[Tokens]) -> dict[str, NDArray[Any]]:
    return {
        "ids": np.concatenate([np.zeros(0, np.int32), *(trace.ids for trace in tokens)]),
        "thinking": np.concatenate([np.zeros(0, bool), *(trace.thinking for trace in tokens)]).astype(
            np.uint8
        ),
        "statistics": np.concatenate([np.zeros((0, 4), np.float32), *(trace.statistics for trace in tokens)]),
    }


def _schema(columns: Mapping[str, str]) -> Any:
    arrow = need("pyarrow", "calibrate")
    return arrow.schema([(name, arrow.type_for_alias(kind)) for name, kind in columns.items()])


def _table_bytes(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], metadata: dict[bytes, bytes]
) -> bytes:
    arrow, parquet = need("pyarrow", "calibrate"), need("pyarrow.parquet", "calibrate")
    table = arrow.Table.from_pylist(list(rows), schema=_schema(columns)).replace_schema_metadata(metadata)
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content
