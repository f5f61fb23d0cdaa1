"""The evidence of a certificate: the scores and losses that it was computed from, as a Parquet table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts import atomic
from lynxstop.calibration.certificate import Certificate
from lynxstop.calibration.tables import PROMPT, SUBGROUP, column_names, read_table, reason
from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import DataError
from lynxstop.extras import need


def write_evidence(table: TraceTable, path: Path) -> None:
    """Write a table as Parquet, atomically; `read_table(path, by="group")` gives it back."""
    arrow, parquet = need("pyarrow", "calibrate"), need("pyarrow.parquet", "calibrate")
    # A trace without cues is one row with an empty cue.
    lengths = table.lengths
    rows = np.repeat(np.arange(table.traces), np.maximum(lengths, 1))
    empty = lengths[rows] == 0
    filled = np.flatnonzero(~empty)
    cue = np.zeros(len(rows), dtype=np.int64)
    cue[filled] = np.arange(len(table.scores)) - table.offsets[rows[filled]]

    def spread(values: NDArray[Any], blank: NDArray[np.bool_] | None = None) -> Any:
        wide = np.zeros(len(rows), dtype=values.dtype)
        wide[filled] = values
        hidden = empty.copy()
        if blank is not None:
            hidden[filled] |= blank
        return arrow.array(wide, mask=hidden)

    columns = {
        "trace_id": _strings(table.trace_ids, rows),
        "problem_id": _strings(table.problem_ids, rows),
        "cue": arrow.array(cue, mask=empty),
        "score": spread(table.scores),
        "loss": spread(table.losses, np.isnan(table.losses)),
    }
    if table.tokens is not None and table.full_tokens is not None:
        columns["tokens"] = spread(table.tokens)
        columns["full_tokens"] = arrow.array(table.full_tokens[rows])
    if table.groups is not None:
        columns["group"] = _strings(table.groups, rows)
    if table.prompts is not None:
        columns[PROMPT] = _strings(table.prompts, rows)
    for named in () if table.subgroups is None else table.subgroups.T:
        name = str(named[0]).partition("=")[0]
        values = np.array([text.partition("=")[2] for text in named.tolist()], dtype=np.str_)
        columns[SUBGROUP + name] = _strings(values, rows)
    with atomic.replacing(path) as temporary:
        made = arrow.table(columns).replace_schema_metadata({"lynxstop": "evidence"})
        parquet.write_table(made, temporary, compression="zstd")


def read_evidence(path: Path, certificate: Certificate | None = None) -> TraceTable:
    """Read what `write_evidence` wrote, or the score table that `certificate` was computed from."""
    if path.suffix == ".parquet":
        arrow, parquet = need("pyarrow", "calibrate"), need("pyarrow.parquet", "calibrate")
        try:
            schema = parquet.read_schema(path)
        except (OSError, UnicodeDecodeError, arrow.ArrowException) as error:
            raise DataError(
                f"{path} cannot be read as evidence: {reason(error)}.",
                hint="Get it again from where it was made, beside its certificate.",
            ) from error
        if (schema.metadata or {}).get(b"lynxstop") == b"evidence":
            found = [name for name in schema.names if name.startswith(SUBGROUP)]
            return read_table(path, by="group" if "group" in schema.names else None, subgroups=found)
    if certificate is None:
        return read_table(path)
    # Certificates once took any name for the column `loss`; the digest decides whether it was this table.
    named = certificate.loss in column_names(path)
    return read_table(
        path,
        by=certificate.settings.by,
        loss=certificate.loss if named else "loss",
        subgroups=list(dict.fromkeys(one.column for one in certificate.subgroups)),
    )


def _strings(values: NDArray[np.str_], rows: NDArray[np.int64]) -> Any:
    arrow = need("pyarrow", "calibrate")
    return arrow.DictionaryArray.from_arrays(rows, arrow.array(values.tolist())).cast(arrow.string())
