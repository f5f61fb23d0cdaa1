"""Which columns of a record hold the id, the prompt and the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lynxstop.errors import DataError
from lynxstop.grading.extract import extract_answer

NAMES = {
    "id": ("id", "unique_id", "question_id", "record id"),
    "prompt": ("prompt", "question", "problem", "input", "messages", "conversations"),
    "answer": ("answer", "gold", "target", "expected_answer", "ground_truth", "solution"),
}
"""Names of the columns, the first that is there; upper or lower case."""


def find_columns(names: Iterable[Any], chosen: Mapping[str, str], place: str) -> dict[str, str]:
    """Return the column of the id, of the prompt and of the answer, of those that are there.

    Parameters
    ----------
    names : iterable of str
        Of all columns.
    chosen : mapping of str to str
        Columns that the user named.
    place : str
        Where they were found, for errors.

    Raises
    ------
    DataError
        When a chosen column is missing.
    """
    names = [str(name) for name in names]
    lower = {name.lower(): name for name in reversed(names)}
    if missing := [column for column in chosen.values() if column not in names]:
        raise DataError(
            f"{place}: there is no column {missing[0]!r}.", hint=f"There are: {', '.join(names)}."
        )
    found = dict(chosen)
    for own, candidates in NAMES.items():
        present = [lower[name] for name in candidates if name in lower]
        if own not in found and present:
            found[own] = next((name for name in candidates if name in names), present[0])
    return found


def bare_answer(text: str) -> str:
    """Return the answer that a worked solution ends on: its last box, or what follows its last ``####``."""
    return extract_answer(text) or text if "####" in text or "\\boxed" in text else text
