"""Multiple-choice records as the common data sets have them: a prompt that lists them, and a letter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lynxstop.errors import DataError

_GPQA = ("correct answer", "incorrect answer 1", "incorrect answer 2", "incorrect answer 3")
_LISTS = ("choices", "options")
_KEYS = ("answerkey", "answer_idx", "answer", "answer_index", "gold", "target", "label")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class ListedChoices(NamedTuple):
    """The choices of a question, in the order in which they are shown.

    Attributes
    ----------
    texts : list of str
    gold : str or None
        Letter of the right one.
    columns : set of str
        Columns of the record that they come from.
    """

    texts: list[str]
    gold: str | None
    columns: set[str]

    def prompt(self, question: str) -> str:
        """Return the question with its choices; one that lists them already stays as it is."""
        if all(text in question for text in self.texts):
            return question
        listed = "\n".join(f"{letter}. {text}" for letter, text in zip(_LETTERS, self.texts, strict=False))
        return f"{question}\n\n{listed}\n\nAnswer with the letter of the right choice."


def read_choices(record: Mapping[str, Any], place: str) -> ListedChoices | None:
    """Find the choices of a record; None when it has none.

    GPQA has a column for each choice: they are shown in an order drawn from their texts, which is the same
    every time. Others have a list in `choices` or `options`, and the label, the index from 0 or the text of
    the right one in `answerKey`, `answer` or a column like them.

    Raises
    ------
    DataError
        When there is such a column, and it holds no list; `place` says where.
    """
    lower = {str(name).lower(): str(name) for name in record}
    if lower.keys() >= set(_GPQA[:2]):
        used = [lower[name] for name in _GPQA if name in lower]
        given = [str(record[name]).strip() for name in used if record[name] not in (None, "")]
        texts = sorted(dict.fromkeys(given), key=lambda text: hashlib.sha256(text.encode()).digest())
        return ListedChoices(texts, _LETTERS[texts.index(given[0])], set(used))
    column = next((lower[name] for name in _LISTS if name in lower), None)
    if column is None or record[column] in (None, "", [], {}):
        return None
    labels, texts = _labelled(record[column], f"{place}: the column {column!r}")
    keys = [lower[name] for name in _KEYS if name in lower]
    gold = next((found for name in keys if (found := _gold(record[name], labels, texts))), None)
    return ListedChoices(texts, gold, {column, *keys})


def _labelled(value: Any, what: str) -> tuple[list[str], list[str]]:
    """Labels and texts of the choices."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if isinstance(value, Mapping) and isinstance(value.get("text"), Sequence):
        texts, labels = list(value["text"]), list(value.get("label") or [])
    elif isinstance(value, Mapping):
        labels, texts = list(value), list(value.values())
    elif isinstance(value, list) and all(isinstance(one, Mapping) and "text" in one for one in value):
        texts, labels = [one["text"] for one in value], [one.get("label") for one in value]
    else:
        texts, labels = value if isinstance(value, list) else [], []
    if len(texts) not in range(2, len(_LETTERS) + 1):
        raise DataError(
            f"{what} holds no list of choices.",
            hint="Write it as a list, in JSON lines or Parquet; or name a whole prompt with --prompt-column.",
        )
    usual = _LETTERS[: len(texts)] if len(labels) != len(texts) else labels
    return [str(label) for label in usual], [str(text).strip() for text in texts]


def _gold(value: Any, labels: Sequence[str], texts: Sequence[str]) -> str | None:
    """Return the letter of the right choice, which is given by its label, its text or its index.

    A number is an index. Digits that are the text of one choice and the index of another name none.
    """
    said, places = str(value).strip(), range(len(texts))
    if said in labels:
        return _LETTERS[labels.index(said)]
    by_text = [] if isinstance(value, int) else [place for place in places if texts[place] == said]
    found = {*by_text[:1], *(place for place in places if str(place) == said)}
    return _LETTERS[found.pop()] if len(found) == 1 else None
