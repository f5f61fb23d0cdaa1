"""Problem sets: JSON lines, CSV, Parquet or a data set's name in, checked problems out."""

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
from lynxstop.recordings.columns import NAMES, bare_answer, find_columns
from lynxstop.recordings.hub import PREFIX, hub_records
from lynxstop.recordings.prompts import Prompt, content_id, read_prompt


@dataclass(frozen=True, slots=True)
class Problem:
    """One prompt to be thought about.

    Parameters
    ----------
    id : str
        Unique in its set; splits never part the traces of one problem.
    prompt : str or tuple of mappings
        The user's turn, or chat messages up to it, before any chat template.
    answer : str, optional
        The gold answer; without it only the `disagree` loss can be measured.
    metadata : mapping
        Every further column, such as ``family``, ``difficulty`` and ``split``.
    """

    id: str
    prompt: Prompt
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def load_problems(path: str | Path, columns: Mapping[str, str] | None = None) -> list[Problem]:
    """Read a problem set; the suffix decides the format (.jsonl, .csv, .parquet).

    Parameters
    ----------
    path : path or str
        A file, or ``hf://NAME[@REVISION][:CONFIG]/SPLIT`` for the `datasets` library.
    columns : mapping of str to str, optional
        The columns that hold `id`, `prompt` and `answer`; by default the first of
        `lynxstop.recordings.columns.NAMES` that is there. A problem without an id gets a digest of its
        prompt. Of a worked solution only the answer is taken, unless its column is named here.

    Raises
    ------
    DataError
        On a missing or empty file, a broken record or a repeated id; names the file and the line (in
        Parquet and data sets the row).
    """
    chosen = dict(columns or {})
    seen: dict[str, int] = {}
    problems = []
    try:
        for place, record in _records(path):
            problem, named = _problem(record, chosen, f"{path}, line {place}")
            first = seen.setdefault(problem.id, place)
            if first != place and named:
                raise DataError(
                    f"{path}, line {place}: the id {problem.id!r} was used in line {first} already.",
                    hint="Every problem needs an id of its own.",
                )
            if first != place:
                raise DataError(
                    f"{path}, line {place}: the prompt of line {first} again.",
                    hint="Leave it out, or give both an id; --samples makes several traces of a prompt.",
                )
            problems.append(problem)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.") from error
    if not problems:
        raise DataError(f"{path} holds no problems.")
    return problems


def _records(path: str | Path) -> Iterator[tuple[int, Any]]:
    if isinstance(path, str) and path.startswith(PREFIX):
        return hub_records(path)
    path = Path(path)
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise DataError(
            f"Problems are read from {', '.join(readers)} or {PREFIX}NAME/SPLIT, not from {path.name!r}.",
            hint="Rename or convert the file.",
        )
    if not path.is_file():
        raise DataError(f"There is no problem file {path}.")
    return readers[path.suffix](path)


def digest_problems(problems: Iterable[Problem]) -> str:
    """SHA-256 of all fields of the problems, in order."""
    digest = hashlib.sha256()
    for problem in problems:
        fields = [problem.id, problem.prompt, problem.answer, dict(problem.metadata)]
        digest.update(json.dumps(fields, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _problem(record: Any, chosen: Mapping[str, str], place: str) -> tuple[Problem, bool]:
    """Read a problem; also say whether it has an id of its own."""
    if not isinstance(record, dict):
        raise DataError(f"{place}: a problem is an object with a prompt and maybe an id and an answer.")
    found = find_columns(record, chosen, place)
    values = {own: record[column] for own, column in found.items()}
    for own in ("id", "prompt"):
        if values.get(own, "" if own == "prompt" else "none") in (None, "", []):
            raise DataError(
                f"{place}: {own} missing or empty.",
                hint=f"There are: {', '.join(map(str, record))}. It is looked for in "
                f"{', '.join(NAMES[own])}; name another column with --{own}-column.",
            )
    prompt = read_prompt(values["prompt"], place)
    answer = values.get("answer")
    given = None if answer in (None, "") else _text(answer, "answer", place)
    if given is not None and "answer" not in chosen:
        given = bare_answer(given)
    own_id = _text(values["id"], "id", place) if "id" in values else content_id(prompt)
    used = {*found.values(), *chosen}  # what had one of our names gives way to the column that is named
    metadata = {name: value for name, value in record.items() if name not in used}
    return Problem(own_id, prompt, given, metadata), "id" in values


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
