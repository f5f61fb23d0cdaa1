"""Problem sets: JSON lines, CSV, Parquet or a data set's name in, checked problems out."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lynxstop.errors import DataError
from lynxstop.extras import need
from lynxstop.recordings.choices import read_choices
from lynxstop.recordings.columns import NAMES, bare_answer, find_columns
from lynxstop.recordings.hub import PREFIX, hub_records
from lynxstop.recordings.prompts import Prompt, content_id, read_prompt, read_tools, with_system

logger = logging.getLogger(__name__)


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
    tools : tuple of mappings
        Tools that the chat template shows, as in the OpenAI API.
    """

    id: str
    prompt: Prompt
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()


def load_problems(path: str | Path, columns: Mapping[str, str] | None = None) -> list[Problem]:
    """Read a problem set; the suffix decides the format (.jsonl, .json, .csv, .parquet).

    Parameters
    ----------
    path : path or str
        A file, or ``hf://NAME[@REVISION][:CONFIG]/SPLIT`` for the `datasets` library.
    columns : mapping of str to str, optional
        The columns that hold `id`, `prompt` and `answer`; by default the first of
        `lynxstop.recordings.columns.NAMES` that is there. A problem without an id gets a digest of its
        prompt, and is read once. Of a worked solution only the answer is taken, unless its column is named
        here. Choices in columns of their own are listed in the prompt, and the answer is a letter.

    Raises
    ------
    DataError
        On a missing or empty file, a broken record, a repeated id, or a prompt with two answers; names the
        file and the line (in Parquet, data sets and JSON arrays the row).
    """
    chosen = dict(columns or {})
    seen: dict[str, tuple[int, Problem]] = {}
    repeated = 0
    try:
        for place, record in _records(path):
            _check_characters(record, f"{path}, line {place}")
            problem, named = _problem(record, chosen, f"{path}, line {place}")
            first, same = seen.setdefault(problem.id, (place, problem))
            if first == place:
                continue
            if named:
                raise DataError(
                    f"{path}, line {place}: the id {problem.id!r} was used in line {first} already.",
                    hint="Every problem needs an id of its own.",
                )
            if same.answer != problem.answer:
                raise DataError(
                    f"{path}, line {place}: the prompt of line {first} again, with another answer.",
                    hint="Leave out the wrong one; --samples makes several traces of a prompt.",
                )
            repeated += 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.", hint="Convert it to UTF-8.") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deep.", hint="Write one problem a line.") from error
    if not seen:
        raise DataError(f"{path} holds no problems.", hint="Give a file with one problem a line.")
    if repeated:
        logger.warning("%s: %d problems repeat the prompt of another, and are left out.", path, repeated)
    return [problem for _, problem in seen.values()]


def _records(path: str | Path) -> Iterator[tuple[int, Any]]:
    if isinstance(path, str) and path.startswith(PREFIX):
        return hub_records(path)
    path = Path(path)
    if path.is_dir():
        inside = ", ".join(sorted(one.name for one in path.iterdir() if one.suffix.lower() in _READERS)[:5])
        raise DataError(
            f"{path} is a folder; problems are read from a file.",
            hint=f"In it there are: {inside}." if inside else "Give the file itself.",
        )
    if path.suffix.lower() not in _READERS:
        raise DataError(
            f"Problems are read from {', '.join(_READERS)} or {PREFIX}NAME/SPLIT, not from {path.name!r}.",
            hint="Rename or convert the file.",
        )
    if not path.is_file():
        raise DataError(f"There is no problem file {path}.", hint="Check the path.")
    return _opened(path, _READERS[path.suffix.lower()])


def _opened(path: Path, reader: Reader) -> Iterator[tuple[int, Any]]:
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", hint="Check its permissions.") from error


def digest_problems(problems: Iterable[Problem]) -> str:
    """SHA-256 of all fields of the problems, in order."""
    digest = hashlib.sha256()
    for problem in problems:
        fields = [problem.id, problem.prompt, problem.answer, dict(problem.metadata)]
        fields += [problem.tools] if problem.tools else []
        digest.update(json.dumps(fields, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _check_characters(record: Any, place: str) -> None:
    """Refuse what JSON can spell and UTF-8 cannot."""
    try:
        json.dumps(record, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: {error.object[error.start]!r} is half a character, and no text.",
            hint="Write the file again, as UTF-8.",
        ) from error


def _problem(record: Any, chosen: Mapping[str, str], place: str) -> tuple[Problem, bool]:
    """Read a problem; also say whether it has an id of its own."""
    if not isinstance(record, dict):
        raise DataError(
            f"{place}: a problem is an object with a prompt and maybe an id and an answer.",
            hint='Write it as {"prompt": "...", "answer": "..."}.',
        )
    found = find_columns(record, chosen, place)
    values = {own: record[column] for own, column in found.items()}
    for own in ("id", "prompt"):
        if values.get(own, "" if own == "prompt" else "none") in (None, "", []):
            raise DataError(
                f"{place}: {own} missing or empty.",
                hint=f"There are: {', '.join(map(str, record))}. It is looked for in "
                f"{', '.join(NAMES[own])}; name another column with --{own}-column.",
            )
    prompt, answer = read_prompt(values["prompt"], place), values.get("answer")
    used = {*found.values(), *chosen}  # what had one of our names gives way to the column that is named
    if "prompt" not in chosen and found["prompt"].lower() != "prompt" and isinstance(prompt, str):
        choices = read_choices(record, place)
        if choices is not None:
            prompt = choices.prompt(prompt)
            used |= choices.columns
            answer = answer if "answer" in chosen else choices.gold
    for column in ("system", "system_prompt"):
        prompt = with_system(prompt, record.get(column))
    tools = read_tools(record.get("tools"), place)
    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    given = None if answer in (None, "") else _text(answer, "answer", place)
    if given is not None and "answer" not in chosen:
        given = bare_answer(given)
    own_id = _text(values["id"], "id", place) if "id" in values else content_id(prompt, tools)
    used |= {"tools"} if tools else set()
    metadata = {name: value for name, value in record.items() if name not in used}
    return Problem(own_id, prompt, given, metadata, tools), "id" in values


def _text(value: Any, name: str, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(
            f"{place}: the {name} must be a string or a number.",
            hint=f"Write it as one, or name another column with --{name}-column.",
        )
    return str(value)


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    """JSON lines, or one JSON array: files of either name hold either."""
    with path.open(encoding="utf-8-sig") as file:
        start = file.read(4096).lstrip()[:1]
        file.seek(0)
        if start == "[":
            yield from enumerate(_parsed(file.read(), path), start=1)
            return
        for place, line in enumerate(file, start=1):
            if not line.strip():
                continue
            yield place, _parsed(line, path, place)


def _parsed(text: str, path: Path, place: int | None = None) -> Any:
    """Read JSON; `place` is its line, where it is not the whole file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {place or error.lineno}: not valid JSON ({error.msg}).",
            hint="Each line holds one whole object; or the file is one array: [{...}, ...].",
        ) from error
    except ValueError as error:
        where = path if place is None else f"{path}, line {place}"
        raise DataError(
            f"{where}: a number has more digits than can be read.", hint="Write it in quotes, as a text."
        ) from error


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        place = 1
        rows = csv.DictReader(file, strict=True)
        try:
            names = list(rows.fieldnames or ())
            if repeated := next((name for name in names if names.count(name) > 1), None):
                raise DataError(
                    f"{path} has several columns {repeated!r}.", hint="Give every column a name of its own."
                )
            for record in rows:
                place = rows.line_num
                if None in record or None in record.values():
                    raise DataError(
                        f"{path}, line {place}: not as many fields as the header names.",
                        hint="Put texts with commas or line breaks in double quotes.",
                    )
                yield place, record
        except csv.Error as error:
            raise DataError(
                f"{path}, line {place}: not valid CSV from here on ({error}).",
                hint='Close every double quote, or write JSON lines: {"prompt": "..."}.',
            ) from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    arrow = need("pyarrow", "calibrate")
    try:
        table = need("pyarrow.parquet", "calibrate").read_table(path)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable Parquet file.", hint="Copy or write it again.") from error
    yield from enumerate(table.to_pylist(), start=1)


Reader = Callable[[Path], Iterator[tuple[int, Any]]]
_READERS: dict[str, Reader] = {
    ".jsonl": _json,
    ".json": _json,
    ".ndjson": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
