"""Whether two answers are the same: yes, no, or not decided.

Stages, cheapest first: equal after normalisation; letters and yes/no; parts of tuples, sets and intervals;
exact numbers; math-verify in a worker process. What no stage decides stays undecided, because a guess would
end up in a certificate.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from lynxstop.grading.exact import read_quantity, same_quantity
from lynxstop.grading.extract import extract_answer
from lynxstop.grading.normalise import named_variable, normalise
from lynxstop.grading.structure import Parts, maybe_one_number, read_parts
from lynxstop.grading.verify_math import SHARED

Status = Literal["parsed", "unparsed", "timeout"]

_CHOICE = re.compile(r"(?:(?:option|choice|answer)\s+)?\(?([A-J])(?:[.):](?:\s.*)?)?", re.I | re.DOTALL)
_YES_NO = {"yes": True, "true": True, "no": False, "false": False}
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s'-]+[^\W\d_]+)*")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_DOUBTFUL = re.compile(r"[:_]|e\s*\^|\\sqrt\s*\{\s*-|\d\s+\d|\dx\d")
"""Times, ratios, bases, complex powers: math-verify may read them in another sense than they were meant."""
_RELATION = re.compile(r"[=<>]|\\[lg](?:e|eq|t)(?![a-z])|\\neq?(?![a-z])")

Same = Callable[[str, str], bool | None]
"""Whether two answers are the same; None when that is not decided."""


@dataclass(frozen=True, slots=True)
class Grade:
    """An answer and what is known about it.

    Parameters
    ----------
    answer : str
        As extracted; empty when `status` is "unparsed".
    status : {"parsed", "unparsed", "timeout"}
        "timeout": the comparison with gold could not be decided in time, or not at all.
    right : bool or None
        None without gold, and when undecided. A missing answer is not right.
    """

    answer: str
    status: Status
    right: bool | None


def grade(text: str, gold: str | None) -> Grade:
    """Extract the answer of `text` and compare it with `gold`."""
    answer = extract_answer(text)
    if answer is None:
        return Grade("", "unparsed", None if gold is None else False)
    if gold is None:
        return Grade(answer, "parsed", None)
    right = answers_agree(answer, gold)
    return Grade(answer, "timeout" if right is None else "parsed", right)


def answers_agree(left: str, right: str) -> bool | None:
    """Compare two extracted answers; symmetric.

    Returns
    -------
    bool or None
        None when undecided: an empty side, incomparable units, words, or what math-verify cannot settle.

    Raises
    ------
    MissingExtraError
        When a pair needs math-verify and it is not installed.
    """
    return _agree(*sorted((left, right)))


@lru_cache(maxsize=65536)
def _agree(left: str, right: str) -> bool | None:
    names = named_variable(left), named_variable(right)
    left, right = normalise(left), normalise(right)
    if not left or not right:
        return None
    if None not in names and names[0] != names[1]:
        return None
    return True if left == right else _compare(left, right)


def _compare(left: str, right: str) -> bool | None:
    for read in (_choice, _yes_no):
        known = read(left, right), read(right, left)
        if known != (None, None):
            return _simple(known, left, right)
    parts = read_parts(left), read_parts(right)
    if parts != (None, None):
        return _structured(parts, left, right)
    quantities = read_quantity(left), read_quantity(right)
    if quantities[0] is not None and quantities[1] is not None:
        return same_quantity(quantities[0], quantities[1])
    if _WORDS.fullmatch(left) or _WORDS.fullmatch(right):
        return True if left.casefold() == right.casefold() else None
    return _symbolic(_unbracket(left), _unbracket(right))


def _symbolic(left: str, right: str) -> bool | None:
    """Ask math-verify, but not about prose, nor to compare a relation with a number: it would just say no."""
    if _PROSE.search(left) or _PROSE.search(right):
        return None
    if len(_RELATION.findall(left)) != len(_RELATION.findall(right)):
        return None
    verdict = SHARED.agree(*sorted((left, right)))
    return None if verdict is False and _DOUBTFUL.search(f"{left};{right}") else verdict


def _simple(known: tuple[object, object], left: str, right: str) -> bool | None:
    """Letters and yes/no: equal or not; against a number it is not, against anything else it is open."""
    if None not in known:
        return known[0] == known[1]
    other = right if known[1] is None else left
    return False if read_quantity(other) is not None else None


def _choice(text: str, other: str) -> str | None:
    match = _CHOICE.fullmatch(text)
    if match is None or (match[1].islower() and not re.fullmatch(r"\(?[A-J]\)?", other)):
        return None
    return match[1].upper()


def _yes_no(text: str, _other: str) -> bool | None:
    return _YES_NO.get(text.casefold())


def _structured(parts: tuple[Parts | None, Parts | None], left: str, right: str) -> bool | None:
    verdict = _same_parts(*parts, left, right)
    if maybe_one_number(left) or maybe_one_number(right):
        quantities = read_quantity(left), read_quantity(right)
        if quantities[0] is not None and quantities[1] is not None:
            as_numbers = same_quantity(quantities[0], quantities[1])
            one_sided = None in parts
            return as_numbers if one_sided or as_numbers == verdict else None
    return verdict


def _same_parts(one: Parts | None, other: Parts | None, left: str, right: str) -> bool | None:
    if one is None or other is None:
        parts, text = (other, left) if one is None else (one, right)
        assert parts is not None
        if len(parts.items) == 1:
            return _agree(parts.items[0], text)
        return False if read_quantity(text) is not None else _symbolic(left, right)
    if len(one.items) != len(other.items):
        return False
    if not (one.ordered or other.ordered):
        return _matched(one.items, other.items)
    if one.kind == other.kind:
        return _in_order(one.items, other.items)
    if "list" not in (one.kind, other.kind):
        return False
    if _in_order(one.items, other.items):
        return True
    return False if _matched(one.items, other.items) is False else None


def _matched(one: tuple[str, ...], other: tuple[str, ...]) -> bool | None:
    """Match without regard to order; each part is used once."""
    left, undecided = list(other), False
    for item in one:
        verdicts = [_agree(item, candidate) for candidate in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            undecided = True
        else:
            return False
    return None if undecided else True


def _in_order(one: tuple[str, ...], other: tuple[str, ...]) -> bool | None:
    verdicts = [_agree(a, b) for a, b in zip(one, other, strict=True)]
    return False if False in verdicts else (None if None in verdicts else True)


def _unbracket(text: str) -> str:
    return text[1:-1] if text.startswith("(") and text.endswith(")") and text.count("(") == 1 else text


def agrees(trial: Grade, full_answer: str, full_status: str, same: Same = answers_agree) -> bool:
    """Whether a forced answer certainly equals the full one; missing and undecided ones do not."""
    if "unparsed" in (trial.status, full_status):
        return False
    return same(trial.answer, full_answer) is True


Grader = Callable[[str, str | None], Grade]
"""What may replace `grade`, for answers that need another check (code, proofs)."""
