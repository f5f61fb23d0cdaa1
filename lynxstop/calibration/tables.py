"""Score tables of any system, read from CSV or Parquet.

One row per cue: trace_id, problem_id, cue (ordinal in the trace), score, loss (empty = could not be judged),
and, if known, tokens (thinking tokens of an exit here), full_tokens (of the full trace), prompt (a trace's
prompt, as a text or as chat messages, or its digest in prompt_sha256) and a column to group by. A trace
without cues is one row with an empty cue, score and loss.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.losses import LOSSES
from lynxstop.calibration.subgroups import labels_of
from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import ConfigError, DataError
from lynxstop.extras import need
from lynxstop.recordings.prompts import prompt_digest, read_prompt

_NUMBERS = {"cue": "int64", "score": "float64", "loss": "float64", "tokens": "int64", "full_tokens": "int64"}
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{32,64})", re.IGNORECASE)
_KINDS = {"string": "texts", "int64": "whole numbers", "float64": "numbers"}
PROMPT = "prompt_sha256"
SUBGROUP = "subgroup:"
"""Before the name of a column of subgroups, in evidence."""
_REQUIRED = ("trace_id", "problem_id", "cue", "score", "loss")


def read_table(
    path: Path, *, by: str | None = None, loss: str = "loss", subgroups: Sequence[str] = ()
) -> TraceTable:
    """Read a score table.

    Parameters
    ----------
    path : Path
        A `.csv` or `.parquet` file.
    by : str, optional
        Column to group by.
    loss : str
        Column that holds the loss; a loss of `LOSSES` without a column of its own is in the column `loss`.
    subgroups : sequence of str
        Columns whose values are counted apart.

    Raises
    ------
    DataError
        When the file cannot be read, a column is missing, or its content makes no sense.
    """
    with _reading(path):
        table = _load(path, by, loss, subgroups)
    return _assemble(table, path, by, subgroups)


def read_weights(path: Path, trace_ids: NDArray[np.str_]) -> NDArray[np.float64]:
    """Read the columns trace_id and weight, in the order of `trace_ids`, which are sorted; shape (traces,).

    Raises
    ------
    DataError
        When the file cannot be read, or does not give every trace one weight.
    """
    arrow = need("pyarrow", "calibrate")
    try:
        read = _open(path, None)
        names = np.array(read.column("trace_id").cast(arrow.string()).to_pylist(), dtype=np.str_)
        values = read.column("weight").cast(arrow.float64()).to_numpy()
    except (OSError, KeyError, UnicodeDecodeError, arrow.ArrowException) as error:
        raise DataError(
            f"{path} is not a table of trace_id and weight: {reason(error)}.",
            hint="Give a CSV or Parquet file with these two columns, and one row per trace.",
        ) from error
    order = np.argsort(names)
    if not np.array_equal(names[order], trace_ids):
        raise DataError(
            f"{path} does not give every trace exactly one weight.",
            hint="Its trace_ids are those of the traces, each once.",
        )
    weights: NDArray[np.float64] = values[order]
    return weights


def _load(path: Path, by: str | None, loss: str, subgroups: Sequence[str] = ()) -> Any:
    arrow = need("pyarrow", "calibrate")
    table = _open(path, by)
    _check_spelling(table.column_names, path)
    _check_columns(by, subgroups)
    table = _with_digests(table, path)
    own = [name for name in table.column_names if name not in {*_NUMBERS, *_REQUIRED, PROMPT, "prompt", by}]
    if loss not in {*own, *LOSSES, "loss"}:
        raise ConfigError(
            f"There is no loss {loss!r}: {path} has no such column of its own.",
            hint=f"Choose one of: {', '.join([*LOSSES, *own])}.",
        )
    if loss in own:
        table = table.drop_columns([n for n in ("loss",) if n in table.column_names])
        table = table.rename_columns(["loss" if n == loss else n for n in table.column_names])
    wanted = [*_REQUIRED, *([by] if by else []), *subgroups]
    absent = [name for name in wanted if name not in table.column_names]
    if absent:
        raise DataError(
            f"{path} has no column {', '.join(map(repr, absent))}.",
            hint=f"A score table has the columns {', '.join(_REQUIRED)}.",
        )
    columns = {}
    for name in dict.fromkeys([*wanted, "tokens", "full_tokens", PROMPT]):
        if name in table.column_names:
            columns[name] = _cast(table.column(name), _NUMBERS.get(name, "string"), name, path)
    if PROMPT in columns:
        columns[PROMPT] = arrow.array(map(_plain_digest, columns[PROMPT].to_pylist()), arrow.string())
    return arrow.table(columns)


def _plain_digest(text: str | None) -> str | None:
    """One spelling of a digest, which other tools write in capitals or after "sha256:"."""
    found = _DIGEST.fullmatch(text.strip()) if text else None
    return found[1].lower() if found else text


def _with_digests(table: Any, path: Path) -> Any:
    """Digest the prompts of a column `prompt`, texts or chat messages, where there is no digest."""
    arrow = need("pyarrow", "calibrate")
    if "prompt" not in table.column_names:
        return table
    column = table.column("prompt")
    if arrow.types.is_nested(column.type):
        found = [
            "" if given is None else prompt_digest(read_prompt(given, str(path)))
            for given in column.to_pylist()
        ]
    else:
        texts = _cast(column, "string", "prompt", path).to_pylist()
        known = {text: prompt_digest(text) for text in set(texts) if text}
        found = [known.get(text, "") for text in texts]
    if PROMPT in table.column_names:
        own = _cast(table.column(PROMPT), "string", PROMPT, path).to_pylist()
        found = [digest or other for digest, other in zip(own, found, strict=True)]
        table = table.drop_columns([PROMPT])
    return table.append_column(PROMPT, arrow.array(found, arrow.string()))


def _check_columns(by: str | None, subgroups: Sequence[str]) -> None:
    for name in (*([by] if by else []), *subgroups):
        if name in _NUMBERS:
            raise ConfigError(
                f"No groups can be made of the column {name!r}: a request does not say it.",
                hint="Name a column that is known before a request is answered.",
            )


def _check_spelling(names: list[str], path: Path) -> None:
    """Refuse a column that would not be read because of a capital letter or white space."""
    for name in names:
        plain = name.strip().casefold()
        if name != plain and plain in {*_NUMBERS, *_REQUIRED, PROMPT, "prompt"}:
            raise DataError(
                f"The column {name!r} of {path} is spelt differently from {plain!r}, and would not be read.",
                hint="Rename the column.",
            )


def _check_names(names: list[str], path: Path) -> None:
    counts = Counter(name.strip().casefold() for name in names)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise DataError(
            f"{path} has several columns {repeated[0]!r}.", hint="Give every column a name of its own."
        )


def _cast(column: Any, kind: str, name: str, path: Path) -> Any:
    """Convert a column of plain values; lists, structures and the like are not plain."""
    arrow = need("pyarrow", "calibrate")
    if arrow.types.is_nested(column.type):
        raise DataError(
            f"The column {name!r} of {path} holds {column.type}, where one value per row is needed.",
            hint="Write one row per cue, with plain numbers and texts.",
        )
    try:
        if kind == "string" and arrow.types.is_floating(column.type):
            column = _without_nan(column)
        return column.combine_chunks().cast(getattr(arrow, kind)())
    except (UnicodeDecodeError, arrow.ArrowException) as error:
        raise DataError(
            f"The column {name!r} of {path} cannot be read as {_KINDS[kind]}: {reason(error)}.",
            hint="Write one row per cue, with plain numbers and texts.",
        ) from error


def _without_nan(column: Any) -> Any:
    compute = need("pyarrow.compute", "calibrate")
    return compute.if_else(compute.is_nan(column), None, column)


def column_names(path: Path) -> list[str]:
    """Return the names of a score table's columns.

    Raises
    ------
    DataError
        When the file cannot be read.
    """
    with _reading(path):
        names: list[str] = _open(path, None).column_names
    return names


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say in one sentence why a file is no table."""
    arrow = need("pyarrow", "calibrate")
    if not Path(path).is_file():
        raise DataError(f"There is no score table {path}.", hint="Check the path: a CSV or Parquet file.")
    try:
        yield
    except (OSError, UnicodeDecodeError, arrow.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read as a score table: {reason(error)}.",
            hint="Save it as Parquet, or as CSV in UTF-8 with commas and one line of column names.",
        ) from error


def reason(error: Exception) -> str:
    """Return the first sentence of what went wrong."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _open(path: Path, by: str | None) -> Any:
    arrow = need("pyarrow", "calibrate")
    if path.suffix == ".parquet":
        parquet = need("pyarrow.parquet", "calibrate")
        _check_names(parquet.read_schema(path).names, path)
        return parquet.read_table(path)
    if path.suffix == ".csv":
        csv = need("pyarrow.csv", "calibrate")
        texts = ["trace_id", "problem_id", "prompt", PROMPT, *([by] if by else [])]
        strings = dict.fromkeys(texts, arrow.string())
        read = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=strings))
        _check_names(read.column_names, path)
        return read
    raise DataError(f"{path} is neither .csv nor .parquet.", hint="Convert the table to one of them.")


def _assemble(table: Any, path: Path, by: str | None, subgroups: Sequence[str]) -> TraceTable:
    names, owner = _codes(table, "trace_id", path)
    problems, problem = _codes(table, "problem_id", path)
    cue = _numbers(table, "cue")
    order = np.lexsort((np.nan_to_num(cue, nan=-1.0), owner))
    owner, cue = owner[order], cue[order]
    first = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]])) if len(owner) else owner[:0]
    if ((owner[1:] == owner[:-1]) & ~(cue[1:] > cue[:-1])).any():
        wrong = names[owner[1:][(owner[1:] == owner[:-1]) & ~(cue[1:] > cue[:-1])][0]]
        raise DataError(
            f"Trace id {str(wrong)!r} is duplicated in {path}: two rows have the same cue, or an empty one.",
            hint="Give each trace its own id, and each of its cues one row.",
        )
    events = ~np.isnan(cue)
    scores, losses = _numbers(table, "score")[order], _numbers(table, "loss")[order]
    if (idle := ~events & (~np.isnan(scores) | (losses > 0))).any():
        raise DataError(
            f"A row of trace {str(names[owner[idle][0]])!r} in {path} has a score or a loss, and no cue.",
            hint="Number the cues of a trace, also a single one: 0. A trace without cues has none of them.",
        )
    scores, losses = scores[events], losses[events]
    if np.isnan(scores).any():
        where = names[owner[events][np.isnan(scores)][0]]
        raise DataError(
            f"A score of trace {str(where)!r} in {path} is empty or NaN.", hint="Score every cue."
        )
    tokens = full = None
    if ("tokens" in table.column_names) != ("full_tokens" in table.column_names):
        raise DataError(
            f"{path} has only one of the columns 'tokens' and 'full_tokens'.", hint="Give both or none."
        )
    if "tokens" in table.column_names:
        tokens = _numbers(table, "tokens")[order][events]
        full = _per_trace(_numbers(table, "full_tokens")[order], owner, first, "full_tokens", path)
        if np.isnan(tokens).any() or np.isnan(full).any():
            raise DataError(
                f"A token count in {path} is empty.", hint="Fill the token columns, or drop them."
            )
    groups = None
    if by:
        labels, label = _codes(table, by, path)
        groups = labels[_per_trace(label[order], owner, first, by, path)]
    counted = []
    for name in subgroups:
        labels, label = _codes(table, name, path, "")
        counted.append(
            labels_of(
                name.removeprefix(SUBGROUP),
                labels[_per_trace(label[order], owner, first, name, path)].tolist(),
            )
        )
    prompts = None
    if PROMPT in table.column_names:
        digests, digest = _codes(table, PROMPT, path, "")
        prompts = digests[_per_trace(digest[order], owner, first, PROMPT, path)]
    return TraceTable.from_arrays(
        trace_ids=names[owner[first]],
        problem_ids=problems[_per_trace(problem[order], owner, first, "problem_id", path)],
        lengths=np.bincount(owner, weights=events, minlength=len(names)).astype(np.int64),
        scores=scores,
        losses=losses,
        tokens=tokens,
        full_tokens=full,
        groups=groups,
        prompts=prompts,
        subgroups=np.stack(counted, axis=1) if counted else None,
    )


def _codes(
    table: Any, name: str, path: Path, blank: str | None = None
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Distinct values in sorted order, and the index of each row's value; `blank` stands for an empty one."""
    column = table.column(name)
    if blank is not None:
        column = column.fill_null(blank)
    if column.null_count:
        raise DataError(f"A row of {path} has no {name}.", hint="Fill it in every row.")
    encoded = column.combine_chunks().dictionary_encode()
    values = np.asarray(encoded.dictionary.to_pylist(), dtype=np.str_)
    order = np.argsort(values)
    rank = np.empty(len(values), dtype=np.int64)
    rank[order] = np.arange(len(values))
    return values[order], rank[encoded.indices.to_numpy(zero_copy_only=False)]


def _numbers(table: Any, name: str) -> NDArray[np.float64]:
    values = table.column(name).combine_chunks().to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64)


def _per_trace(
    values: NDArray[Any], owner: NDArray[np.int64], first: NDArray[np.int64], name: str, path: Path
) -> NDArray[Any]:
    taken = values[first]
    if not np.array_equal(values, taken[owner], equal_nan=values.dtype.kind == "f"):
        raise DataError(
            f"The rows of a trace in {path} disagree about {name}.",
            hint="It is one per trace: the same in all of its rows.",
        )
    return taken
