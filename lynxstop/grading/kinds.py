"""Answers of a kind of their own: numerals in a base, times, ratios, dates, matrices and residue classes."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from typing import Any

from lynxstop.grading.exact import read_number

Agree = Callable[[str, str], bool | None]

_BASED = re.compile(
    r"(-?)\(?([0-9A-Z]+(?:\.[0-9A-Z]+)?)\)?\s*_\s*(?:\{\s*([a-z]+|\d{1,2})\s*\}|(\d{1,2}))"
    r"|(-?)([0-9A-Z]+)\s+\(?(?:in )?base[ -](\w+)\)?"
)
_NUMBER_WORDS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_CLOCK = re.compile(r"(\d{1,2})(?::([0-5]\d))?(?::([0-5]\d))?(?:\s*([ap])\.?\s?m\.?)?", re.IGNORECASE)
_RATIO = re.compile(r"([^:]+?)\s*(?::|\\colon)\s*([^:]+)")
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_MONTH = rf"(?P<month>{'|'.join(name[:3] + f'(?:{name[3:]})?' for name in _MONTHS)}|sept)\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:,?\s+(?P<year>\d{4}))?"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:the )?{_DAY}\s+(?:of )?{_MONTH}{_YEAR}",
        rf"{_MONTH}\s+{_DAY}{_YEAR}",
        r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)",
    )
]
_SLASHED = re.compile(r"\d{1,4}([/.])\d{1,2}\1\d{1,4}")
_MATRIX = re.compile(
    r"\\begin\s*\{(?P<kind>[pbBvV]?matrix|array)\}(?:\s*\{[lcr|]+\})?(?P<inside>.*?)\\end\s*\{(?P=kind)\}"
)
_CONGRUENCE = re.compile(
    r"(?:(?P<name>[a-z])\s*\\equiv\s*)?(?P<value>.+?)\s*"
    r"(?:\\pmod\s*\{?(?P<a>\d+)\}?|\(?\s*(?:\\bmod|\\mod|mod(?:ulo)?)(?![a-z])\s*\{?(?P<b>\d+)\}?\s*\)?)"
)


def same_kind(left: str, right: str, agree: Agree) -> tuple[bool | None] | None:
    """Compare two normalised answers of which one at least is of a kind known here.

    Returns
    -------
    tuple of one bool or None, or None
        The verdict; None when neither is of such a kind.
    """
    kinds: tuple[tuple[Callable[[str], Any], Callable[[Any, Any], bool | None]], ...] = (
        (_read_based, _same_based),
        (_read_date, _same_date),
        (_read_clock, _same_clock),
        (_read_ratio, _same_ratio),
        (_read_matrix, _same_matrix(agree)),
        (_read_residue, _same_residue),
    )
    for read, same in kinds:
        found = read(left), read(right)
        if found != (None, None):
            return (same(found[0] or left, found[1] or right),)
    return None


def _read_based(text: str) -> tuple[str, int, Fraction | None] | None:
    match = _BASED.fullmatch(text)
    if match is None or not any(character.isdigit() for character in text.split("_")[0].split("base")[0]):
        return None
    sign, digits = match[1] or match[5] or "", match[2] or match[6]
    named = match[3] or match[4] or match[7]
    base = _NUMBER_WORDS.index(named) + 2 if named in _NUMBER_WORDS else int(named) if named.isdigit() else 0
    whole, _, after = digits.partition(".")
    values = [int(digit, 36) for digit in whole + after]
    if not 2 <= base <= 36 or max(values) >= base or len(values) > 200:
        return sign + digits, base, None
    value = Fraction(0)
    for digit in values:
        value = value * base + digit
    return sign + digits, base, value / base ** len(after) * (-1 if sign else 1)


def _same_based(
    left: tuple[str, int, Fraction | None] | str, right: tuple[str, int, Fraction | None] | str
) -> bool | None:
    """A number without a base may be one whose base was left out: then it is equal to nothing for certain."""
    if isinstance(left, str) or isinstance(right, str):
        plain, based = (left, right) if isinstance(left, str) else (right, left)
        number = read_number(str(plain))
        if number is None or isinstance(based, str) or based[2] is None:
            return None
        digits = read_number(based[0])
        return None if number.value in (based[2], digits and digits.value) else False
    return None if left[2] is None or right[2] is None else left[2] == right[2]


def _read_date(text: str) -> date | tuple[int, int] | str | None:
    for pattern in _DATES:
        match = pattern.fullmatch(text)
        if match:
            found = match.groupdict()
            name = found["month"].lower()
            month = int(name) if name.isdigit() else [m[:3] for m in _MONTHS].index(name[:3]) + 1
            day = int(found["day"])
            try:
                return date(int(found["year"]), month, day) if found["year"] else (month, day)
            except ValueError:
                return text
    return text if _SLASHED.fullmatch(text) else None


def _same_date(left: object, right: object) -> bool | None:
    """A day and month without a year on one side only are not decided, nor are "3/4/2020" and the like."""
    if isinstance(left, str) or isinstance(right, str) or type(left) is not type(right):
        return None
    return left == right


def _read_clock(text: str) -> tuple[int, int, int, str] | None:
    match = _CLOCK.fullmatch(text)
    if match is None or not (match[2] or match[4]):
        return None
    hour, half = int(match[1]), (match[4] or "").lower()
    if hour > 24 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + 12 * (half == "p")
    return hour, int(match[2] or 0), int(match[3] or 0), half


def _same_clock(left: object, right: object) -> bool | None:
    """Without "am" or "pm" an hour up to twelve may be either."""
    if not isinstance(left, tuple) or not isinstance(right, tuple):
        return None
    if bool(left[3]) == bool(right[3]):
        return left[:3] == right[:3]
    bare = right if left[3] else left
    if bare[0] > 12 or left[0] % 12 != right[0] % 12 or left[1:3] != right[1:3]:
        return left[:3] == right[:3]
    return None


def _read_ratio(text: str) -> tuple[Fraction, Fraction] | None:
    match = _RATIO.fullmatch(text)
    numbers = match and (read_number(match[1]), read_number(match[2]))
    if not numbers or numbers[0] is None or numbers[1] is None:
        return None
    return numbers[0].value, numbers[1].value


def _same_ratio(left: object, right: object) -> bool | None:
    if not isinstance(left, tuple) or not isinstance(right, tuple) or (0, 0) in (left, right):
        return None
    return bool(left[0] * right[1] == left[1] * right[0]) and (left[0] * right[0] + left[1] * right[1]) > 0


def _read_matrix(text: str) -> list[list[str]] | str | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return text if r"\begin" in text else None
    if match["kind"] in ("vmatrix", "Vmatrix") or r"\begin" in match["inside"]:
        return text
    inside = re.sub(
        r"\\hline|\\\\\s*\[[^\]]*\]", lambda found: "" if "h" in found[0] else r"\\", match["inside"]
    )
    rows = [row.strip() for row in inside.strip().removesuffix(r"\\").split(r"\\")]
    return [[entry.strip() for entry in row.split("&")] for row in rows]


def _same_matrix(agree: Agree) -> Callable[[object, object], bool | None]:
    def same(left: object, right: object) -> bool | None:
        if not isinstance(left, list) or not isinstance(right, list):
            return None
        flat = [[entry for row in rows for entry in row] for rows in (left, right)]
        if len(flat[0]) != len(flat[1]):
            return False
        verdicts = [agree(a, b) for a, b in zip(*flat, strict=True)]
        if [len(row) for row in left] != [len(row) for row in right]:
            return None if False not in verdicts else False
        return False if False in verdicts else None if None in verdicts else True

    return same


def _read_residue(text: str) -> tuple[Fraction, int, str | None] | str | None:
    match = _CONGRUENCE.fullmatch(text)
    if match is None:
        return None
    number, modulus = read_number(match["value"]), int(match["a"] or match["b"])
    if number is None or number.value.denominator != 1 or modulus == 0:
        return text
    return number.value % modulus, modulus, match["name"]


def _same_residue(left: object, right: object) -> bool | None:
    """Classes are equal or not; a number is not the class it lies in, but it may be meant for it."""
    if isinstance(left, tuple) and isinstance(right, tuple):
        if None not in (left[2], right[2]) and left[2] != right[2]:
            return None
        return left[:2] == right[:2]
    if isinstance(left, tuple) == isinstance(right, tuple):
        return None
    residue, plain = (left, right) if isinstance(left, tuple) else (right, left)
    number = read_number(str(plain))
    assert isinstance(residue, tuple)
    return None if number is None or number.value % residue[1] == residue[0] else False
