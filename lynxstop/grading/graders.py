"""Graders by name: how an answer is found in a text, and when two answers are the same.

`math` reads boxes, letters, numbers and formulas (`lynxstop.grading.grading`). The others are for answers of
another form; a function of yours, named as ``package.module:function``, compares whole answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import import_module
from typing import Any

from lynxstop.errors import ConfigError
from lynxstop.grading.extract import extract_answer
from lynxstop.grading.grading import Grader, Same, TextGrader, answers_agree, grade
from lynxstop.grading.normalise import normalise
from lynxstop.grading.simple import read_choice, read_truth

MATH = grade.name
_OPENING = re.compile(r"[\[{]")
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)


def same_of(grader: Grader) -> Same:
    """Return how a grader compares two answers; a plain function compares as `math` does."""
    return grader.same if isinstance(grader, TextGrader) else answers_agree


def grader_named(name: str) -> Grader:
    """Return a grader.

    Parameters
    ----------
    name : str
        One of `GRADERS`, or ``package.module:function`` of a function that takes two answers and returns
        True, False, or None when it cannot tell. It is imported and called: name only what you trust.

    Raises
    ------
    ConfigError
        When there is no such grader, or the function cannot be imported.
    """
    if name in GRADERS:
        return GRADERS[name]
    if ":" not in name:
        raise ConfigError(
            f"There is no grader {name!r}.",
            hint=f"There are: {', '.join(GRADERS)}; or name a function as package.module:function.",
        )
    _imported(name)
    return TextGrader(name, _whole, _Function(name))


def name_of(grader: Grader) -> str:
    """Return the name of a grader, for the record."""
    if isinstance(grader, TextGrader):
        return grader.name
    return f"{grader.__module__}:{getattr(grader, '__qualname__', '?')}"


def _whole(text: str) -> str | None:
    return text.strip() or None


@dataclass(frozen=True, slots=True)
class _Function:
    """A user's function by its name, so that it reaches other processes."""

    name: str

    def __call__(self, answer: str, other: str) -> bool | None:
        found = _imported(self.name)(answer, other)
        if found is not None and not isinstance(found, bool):
            kind = type(found).__name__
            raise ConfigError(f"The grader {self.name} returned {kind}, not True, False or None.")
        return found


@cache
def _imported(name: str) -> Callable[[str, str], Any]:
    module, _, function = name.partition(":")
    try:
        same = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"The grader {name} cannot be imported: {error}.", hint="Is its folder in PYTHONPATH?"
        ) from error
    if not callable(same):
        raise ConfigError(f"{name} is not a function.")
    found: Callable[[str, str], Any] = same
    return found


def _same_text(answer: str, other: str) -> bool:
    return " ".join(answer.split()) == " ".join(other.split())


def _same_choice(answer: str, other: str) -> bool | None:
    choices = read_choice(normalise(answer)), read_choice(normalise(other))
    if choices[0] is None or choices[1] is None:
        return None if choices[1] is None else False
    return choices[0].letter.upper() == choices[1].letter.upper()


def _same_truth(answer: str, other: str) -> bool | None:
    found = read_truth(normalise(answer)), read_truth(normalise(other))
    return None if None in found else found[0] == found[1]


def _find_json(text: str) -> str | None:
    """The last fenced block, else the whole text, else the last object or list in it."""
    fenced = _FENCE.findall(text)
    for candidate in (*reversed(fenced), text.strip()):
        if _parsed(candidate) is not _NOTHING:
            return str(candidate).strip()
    decoder = json.JSONDecoder()
    found, place = None, 0
    while (start := _OPENING.search(text, place)) is not None:
        try:
            _, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            place = start.end()
            continue
        found, place = text[start.start() : end], end
    return found


_NOTHING = object()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError, ArithmeticError):  # also of a number that Python does not read
        return _NOTHING


def _same_json(answer: str, other: str) -> bool | None:
    """Equal values, whatever the order of keys and the spelling of numbers; 1 is not true."""
    values = _parsed(answer), _parsed(other)
    return None if _NOTHING in values else _equal(*values)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other or (one != one and other != other))  # NaN is as written


def _boxed_or_whole(text: str) -> str | None:
    return extract_answer(text) or _whole(text)


GRADERS: Mapping[str, Grader] = {
    MATH: grade,
    "choice": TextGrader("choice", _boxed_or_whole, _same_choice),
    "yes-no": TextGrader("yes-no", _boxed_or_whole, _same_truth),
    "json": TextGrader("json", _find_json, _same_json),
    "text": TextGrader("text", _whole, _same_text),
}
"""Graders by the name that `lynxstop collect --grader` takes."""
