"""Whether two answers are the same: yes, no, or not decided.

Stages, cheapest first: equal after normalisation; letters and yes/no; answers of a kind of their own; sets of
real numbers; parts of tuples, sets and lists; exact numbers with their units; formulas, proved equal or
different in a worker process. "The same" is never a matter of tolerance. What no stage decides stays
undecided, because a guess would end up in a certificate.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from lynxstop.grading.exact import Measure, Number, read_measure, read_number, readings, same_number
from lynxstop.grading.extract import extract_answer
from lynxstop.grading.intervals import read_region, same_region
from lynxstop.grading.kinds import same_kind
from lynxstop.grading.normalise import named_variable, normalise
from lynxstop.grading.simple import Choice, read_choice, read_truth
from lynxstop.grading.structure import Parts, maybe_one_number, read_parts, ungrouped
from lynxstop.grading.verify_math import SHARED

Status = Literal["parsed", "unparsed", "timeout"]

_WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s'-]+[^\W\d_]+)*")
_RELATION = re.compile(r"[=<>]|\\[lg](?:e|eq|t)(?![a-z])|\\neq?(?![a-z])|\\approx|\\sim|\\equiv")
_CONNECTIVES = re.compile(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])|,")
_SPAN = re.compile(r"\d[\d.,]*(?:/\d+)?-\d[\d.,]*(?:/\d+)?")
"""A difference, a range, a score, or a mixed number."""
_BUILDER = re.compile(r"\\mid|[:|]")
_INFINITE = re.compile(r"([-+]?)\s*\\infty")
_LONGEST, _DEEPEST, _MOST_PARTS = 2000, 30, 40
_SECONDS = 4.0
"""After that long no further part of the same pair is compared; a formula under way may still end."""
_DEADLINE: ContextVar[float] = ContextVar("deadline")

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


@dataclass(frozen=True, slots=True)
class TextGrader:
    """Extracts an answer and compares it with another.

    Parameters
    ----------
    name : str
    extract : callable
        The answer in a text, or None when there is none.
    same : callable
        Whether two answers are the same; it may also be given gold answers.
    """

    name: str
    extract: Callable[[str], str | None]
    same: Same

    def __call__(self, text: str, gold: str | None) -> Grade:
        """Extract the answer of `text` and compare it with `gold`."""
        answer = self.extract(text)
        if answer is None:
            return Grade("", "unparsed", None if gold is None else False)
        if gold is None:
            return Grade(answer, "parsed", None)
        right = self.same(answer, gold)
        return Grade(answer, "timeout" if right is None else "parsed", right)


def answers_agree(left: str, right: str) -> bool | None:
    """Compare two extracted answers; symmetric.

    Returns
    -------
    bool or None
        None when undecided: an empty side, incomparable units, words, notation that is read in several ways,
        and what is neither proved equal nor proved different in time.

    Raises
    ------
    MissingExtraError
        When a pair needs sympy and it is not installed.
    """
    if max(len(left), len(right)) > _LONGEST or max(_depth(left), _depth(right)) > _DEEPEST:
        return True if left.strip() == right.strip() else None
    return _decided(*sorted((left, right)))


@lru_cache(maxsize=65536)
def _decided(left: str, right: str) -> bool | None:
    token = _DEADLINE.set(time.monotonic() + _SECONDS)
    try:
        return _agree(left, right)
    finally:
        _DEADLINE.reset(token)


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _agree(left: str, right: str) -> bool | None:
    if time.monotonic() > _DEADLINE.get():
        return None
    names = named_variable(left), named_variable(right)
    left, right = normalise(left), normalise(right)
    if not left or not right:
        return None
    if None not in names and names[0] != names[1]:
        return None
    return True if left == right else _compare(left, right)


def _compare(left: str, right: str) -> bool | None:
    for verdict in (
        _same_letter(left, right),
        _same_truth(left, right),
        same_kind(left, right, _agree),
    ):
        if verdict is not None:
            return verdict[0]
    as_written = _compare_written(left, right)
    grouped = ungrouped(left), ungrouped(right)
    if as_written is None or grouped == (left, right):
        return as_written
    return as_written if _agree(*grouped) == as_written else None


def _compare_written(left: str, right: str) -> bool | None:
    """Compare answers whose commas separate parts."""
    regions = read_region(left), read_region(right)
    if regions[0] is not None and regions[1] is not None:
        return same_region(regions[0], regions[1])
    parts = read_parts(left), read_parts(right)
    if parts != (None, None):
        return _structured(parts, left, right)
    if _RELATION.search(left) or _RELATION.search(right):
        return _same_equation(left, right)
    return _same_value(left, right)


def _same_value(left: str, right: str) -> bool | None:
    """Compare single values: infinity, numbers and formulas with their units, words."""
    infinite = _INFINITE.fullmatch(left), _INFINITE.fullmatch(right)
    if infinite != (None, None):
        return _same_infinity(infinite, left, right)
    one, other = read_measure(left), read_measure(right)
    if one.unit == "%" or other.unit == "%":
        return _same_percentage(one, other)
    if _SPAN.fullmatch(one.body) or _SPAN.fullmatch(other.body):
        return None
    numbers = _scaled(one.body, one.factor), _scaled(other.body, other.factor)
    if numbers[0] is not None and numbers[1] is not None:
        same = same_number(numbers[0], numbers[1])
    elif one.factor != 1 or other.factor != 1:
        return None
    elif _WORDS.fullmatch(left) or _WORDS.fullmatch(right):
        return _same_words(left, right)
    else:
        same = _same_formula(one.body, other.body)
        if not same and one.unit != other.unit:
            as_written = _same_formula(left, right)  # degrees as radians, letters of units as variables
            if "degree" in (one.unit, other.unit):
                same = True if as_written else None if as_written is None else same
            elif as_written:
                same = None
    if one.unit != other.unit and (one.unit and other.unit):
        return None
    unclear = len(one.unit) == 1 or len(other.unit) == 1
    return None if same and one.unit != other.unit and unclear else same


def _same_formula(left: str, right: str) -> bool | None:
    return SHARED.agree(*sorted((left, right)))


def _scaled(body: str, factor: int) -> Number | None:
    number = read_number(body)
    return None if number is None else number._replace(value=number.value * factor)


def _same_percentage(one: Measure, other: Measure) -> bool | None:
    """A percentage equals the number before the sign and its hundredth: either form may be asked for."""
    percent, plain = (one, other) if one.unit == "%" else (other, one)
    numbers = _scaled(percent.body, percent.factor), _scaled(plain.body, plain.factor)
    if numbers[0] is None or numbers[1] is None or plain.unit not in ("", "%"):
        return None
    as_written = same_number(numbers[0], numbers[1])
    if as_written or plain.unit:
        return as_written
    hundredth = same_number(numbers[0]._replace(value=numbers[0].value / 100), numbers[1])
    return True if hundredth else None if None in (as_written, hundredth) else False


def _same_infinity(infinite: tuple[re.Match[str] | None, ...], left: str, right: str) -> bool | None:
    one, other = infinite
    if one is not None and other is not None:
        return (one[1] == "-") == (other[1] == "-")
    return False if read_number(left if one is None else right) is not None else None


def _same_words(left: str, right: str) -> bool | None:
    """Words without regard to case, except short ones, where "Co" is not "CO"; else nothing is known."""
    short = len(left) <= 3 and left[1:] != right[1:]
    return True if left.casefold() == right.casefold() and not short else None


def _same_equation(left: str, right: str) -> bool | None:
    """Equations are equal when both sides differ by the same; otherwise nothing is known."""
    sides = [text.split("=") for text in (left, right) if len(_RELATION.findall(text)) == 1]
    if [len(both) for both in sides] != [2, 2]:
        return None
    one, other, flipped = (f"({first})-({second})" for first, second in (*sides, sides[1][::-1]))
    return True if _same_value(one, other) or _same_value(one, flipped) else None


def _same_letter(left: str, right: str) -> tuple[bool | None] | None:
    """Letters of a choice are equal or not; a number is none; and what else they may be is open."""
    one, other = _letter(left, right), _letter(right, left)
    if one is None and other is None:
        return None
    if one is not None and other is not None:
        if one.letter.upper() != other.letter.upper():
            return (False,)
        constants = one.letter != other.letter and {one.letter, other.letter} & {"e", "i"}
        options = bool(one.option and other.option) and _agree(one.option, other.option) is not True
        return (None if constants or options else True,)
    choice, text = (one, right) if one is not None else (other, left)
    assert choice is not None
    if choice.option and _agree(choice.option, text):
        return (True,)
    return (False if not choice.option and choice.letter != "I" and read_number(text) is not None else None,)


def _letter(text: str, other: str) -> Choice | None:
    choice = read_choice(text)
    if choice is None or choice.letter.upper() not in "ABCDEFGHIJ":
        return None
    return choice if choice.letter.isupper() or re.fullmatch(r"\(?[A-J]\)?", other) else None


def _same_truth(left: str, right: str) -> tuple[bool | None] | None:
    """Only words that stand alone: an answer that goes on may say something else."""
    found = [read_truth(text) if len(text) > 1 and text.isalpha() else None for text in (left, right)]
    if found == [None, None]:
        return None
    if None not in found:
        return (found[0] == found[1],)
    return (False if read_number(right if found[1] is None else left) is not None else None,)


def _structured(parts: tuple[Parts | None, Parts | None], left: str, right: str) -> bool | None:
    """Compare parts; where digits with commas may also be one number, both readings have to say the same."""
    if any(part and part.kind == "{}" and any(map(_BUILDER.search, part.items)) for part in parts):
        return None
    related = _RELATION.search(left) and _RELATION.search(right)
    if related and sorted(_CONNECTIVES.findall(left)) != sorted(_CONNECTIVES.findall(right)):
        return None
    if any(map(_is_point, parts)) and len({part and part.kind for part in parts}) > 1:
        return None
    verdict = _same_parts(*parts, left, right)
    if maybe_one_number(left) or maybe_one_number(right):
        if _is_number(left) and _is_number(right):
            as_number = _same_value(left, right)
            return as_number if None in parts or as_number == verdict else None
        return verdict
    values = readings(left), readings(right)
    return verdict if not all(values) or bool(values[0] & values[1]) == verdict else None


def _is_number(text: str) -> bool:
    return read_number(read_measure(text).body) is not None


def _same_parts(one: Parts | None, other: Parts | None, left: str, right: str) -> bool | None:
    if one is None or other is None:
        parts, text = (other, left) if one is None else (one, right)
        assert parts is not None
        if len(parts.items) == 1:
            return _agree(parts.items[0], text)
        if parts.ordered or not _is_number(text) or len(parts.items) > _MOST_PARTS:
            return False if _is_number(text) else None
        return _unordered(parts.items, (text,), sets=False)
    kinds = {one.kind, other.kind}
    if max(len(one.items), len(other.items)) > _MOST_PARTS:
        return None
    if not (one.ordered or other.ordered):
        verdict = _unordered(one.items, other.items, sets=kinds == {"{}"})
        if verdict and _are_named(one) != _are_named(other) and not _in_order(one.items, other.items):
            return None
        return verdict or None if "union" in kinds else verdict
    if "union" in kinds or r"\pm" in left + right:
        return None
    if len(kinds) == 1:
        return _in_order(one.items, other.items)
    alone = [parts.items[0] for parts in (one, other) if not parts.ordered and len(parts.items) == 1]
    if alone:
        return _agree(alone[0], left if one.ordered else right) or None
    if "list" not in kinds:
        return False
    if _in_order(one.items, other.items):
        return True if "()" in kinds else None
    return False if _unordered(one.items, other.items, sets=False) is False else None


def _is_point(parts: Parts | None) -> bool:
    """Whether these are the two ends of an interval, which are the same."""
    return bool(parts and parts.kind == "[]" and len(parts.items) == 2 and _agree(*parts.items))


def _are_named(parts: Parts) -> bool:
    """Whether the parts are values of different variables, as in "a = 1, b = 2"."""
    return len({named_variable(item) for item in parts.items}) > 1


def _same_item(one: str, other: str) -> bool | None:
    """Compare parts of a set or list, where a set of one thing is not that thing."""
    same = _agree(one, other)
    return None if same and one.startswith(r"\{") != other.startswith(r"\{") else same


def _unordered(one: tuple[str, ...], other: tuple[str, ...], sets: bool) -> bool | None:
    """Match without regard to order; how often a part stands there counts in lists only."""
    verdicts = [[_same_item(item, candidate) for candidate in other] for item in one]
    lines = [*verdicts, *zip(*verdicts, strict=True)] if one and other else [()] * (len(one) + len(other))
    if any(all(verdict is False for verdict in line) for line in lines):
        return False
    if not all(True in line for line in lines):
        return None
    return True if sets or (len(one) == len(other) and _paired(verdicts)) else None


def _paired(verdicts: list[list[bool | None]]) -> bool:
    """Whether each part has a partner of its own; equality is transitive, so the first free one will do."""
    free = set(range(len(verdicts)))
    for line in verdicts:
        partner = next((place for place in sorted(free) if line[place]), None)
        if partner is None:
            return False
        free.remove(partner)
    return True


def _in_order(one: tuple[str, ...], other: tuple[str, ...]) -> bool | None:
    if len(one) != len(other):
        return False
    verdicts = [_same_item(a, b) for a, b in zip(one, other, strict=True)]
    return False if False in verdicts else (None if None in verdicts else True)


def agrees(trial: Grade, full_answer: str, full_status: str, same: Same = answers_agree) -> bool:
    """Whether a forced answer certainly equals the full one; missing and undecided ones do not."""
    if "unparsed" in (trial.status, full_status):
        return False
    return same(trial.answer, full_answer) is True


grade = TextGrader("math", extract_answer, answers_agree)
"""Grades boxes, letters, numbers and formulas."""

Grader = Callable[[str, str | None], Grade]
"""What may replace `grade`, for answers that need another check (code, proofs)."""
