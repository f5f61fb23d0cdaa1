"""Problem sets: JSON lines, CSV or Parquet in, checked problems out."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lynxstop.errors import DataError
from lynxstop.extras import need

_OWN = ("id", "prompt", "answer")


@dataclass(frozen=True, slots=True)
class Problem:
    """One prompt to be thought about.

    Parameters
    ----------
    id : str
        Unique in its set; splits never part the traces of one problem.
    prompt : str
        The user's turn, before any chat template.
    answer : str, optional
        The gold answer; without it only the `disagree` loss can be measured.
    metadata : mapping
        Every further column, such as ``family``, ``difficulty`` and ``split``.
    """

    id: str
    prompt: str
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def load_problems(path: str | Path) -> list[Problem]:
    """Read a problem set; the suffix decides the format (.jsonl, .csv, .parquet).

    Raises
    ------
    DataError
        On a missing or empty file, a broken record or a repeated id; names the file and the line (in
        Parquet the row).
    """
    path = Path(path)
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise DataError(
            f"Problems are read from {', '.join(readers)}, not from {path.name!r}.",
            hint="Rename or convert the file.",
        )
    if not path.is_file():
        raise DataError(f"There is no problem file {path}.")
    seen: dict[str, int] = {}
    problems = []
    try:
        for place, record in readers[path.suffix](path):
            problem = _problem(record, f"{path}, line {place}")
            first = seen.setdefault(problem.id, place)
            if first != place:
                raise DataError(
                    f"{path}, line {place}: the id {problem.id!r} was used in line {first} already.",
                    hint="Every problem needs an id of its own.",
                )
            problems.append(problem)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.") from error
    if not problems:
        raise DataError(f"{path} holds no problems.")
    return problems


def digest_problems(problems: Iterable[Problem]) -> str:
    """SHA-256 of all fields of the problems, in order."""
    digest = hashlib.sha256()
    for problem in problems:
        fields = [problem.id, problem.prompt, problem.answer, dict(problem.metadata)]
        digest.update(json.dumps(fields, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _problem(record: Any, place: str) -> Problem:
    if not isinstance(record, dict):
        raise DataError(f"{place}: a problem is an object with the fields id, prompt and maybe answer.")
    missing = [name for name in ("id", "prompt") if record.get(name) in (None, "")]
    if missing:
        raise DataError(f"{place}: {' and '.join(missing)} missing or empty.")
    if not isinstance(record["prompt"], str):
        raise DataError(f"{place}: the prompt must be a string.")
    metadata = {name: value for name, value in record.items() if name not in _OWN}
    answer = record.get("answer")
    given = None if answer in (None, "") else _text(answer, "answer", place)
    return Problem(_text(record["id"], "id", place), record["prompt"], given, metadata)


def _text(value: Any, name: str, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f"{place}: the {name} must be a string or a number.")
    return str(value)


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8") as file:
        for place, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield place, json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {place}: not valid JSON ({error.msg}).") from error


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        place = 1
        rows = csv.DictReader(file, strict=True)
        try:
            for record in rows:
                place = rows.line_num
                if None in record or None in record.values():
                    raise DataError(f"{path}, line {place}: not as many fields as the header names.")
                yield place, record
        except csv.Error as error:
            raise DataError(f"{path}, line {place}: not valid CSV from here on ({error}).") from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    arrow = need("pyarrow", "calibrate")
    try:
        table = need("pyarrow.parquet", "calibrate").read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file.") from error
    yield from enumerate(table.to_pylist(), start=1)
