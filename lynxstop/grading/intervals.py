"""Sets of real numbers with exact ends: intervals, unions of them, and inequalities."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from lynxstop.grading.exact import read_number
from lynxstop.grading.structure import read_parts

_RELATION = re.compile(r"<=|>=|<|>|=|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt|neq|ne)(?![A-Za-z])|≤|≥|≠")
_SIGNS = {"<=": "<=", ">=": ">=", "<": "<", ">": ">", "lt": "<", "gt": ">", "≤": "<=", "≥": ">="}
_SIGNS |= {"leq": "<=", "le": "<=", "leqslant": "<=", "geq": ">=", "ge": ">=", "geqslant": ">="}
_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w\}?)?(?:\([a-z]\))?")
_BUILDER = re.compile(r"\\\{\s*\w+\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?::|\||\\mid|\\vert)(?P<rule>.*)\\\}")
_REALS = {r"\mathbb{R}", r"\mathbb R", r"\R", "all real numbers", "all reals"}
_END = Fraction(10) ** 1000
"""Stands for infinity in comparisons; no number read is that large."""


class Piece(NamedTuple):
    """From `low` to `high`; `open_low` and `open_high` say which ends do not belong to it."""

    low: Fraction
    open_low: bool
    high: Fraction
    open_high: bool


class Region(NamedTuple):
    """A set of numbers in one canonical form, and the variable of the inequality it was written as."""

    pieces: tuple[Piece, ...]
    variable: str | None
    point: bool
    """Whether it may also be a point of the plane: two finite ends in round brackets."""


def read_region(text: str) -> Region | None:
    """Read a normalised answer as a set of real numbers; None when its ends are not read exactly."""
    builder = _BUILDER.fullmatch(text)
    if builder:
        return _inequality(builder["rule"].strip())
    if text in _REALS:
        return Region((Piece(-_END, True, _END, True),), None, False)
    parts = read_parts(text)
    if parts is not None and parts.kind == "union":
        pieces: list[Piece] = []
        for item in parts.items:
            found = _set(item)
            if found is None:
                return None
            pieces += found.pieces
        return Region(_joined(pieces), None, False)
    return _interval(text) or _inequality(text)


def _set(text: str) -> Region | None:
    parts = read_parts(text)
    if parts is not None and parts.kind == "{}":
        ends = [end for end in map(_end, parts.items) if end is not None]
        if len(ends) < len(parts.items):
            return None
        return Region(tuple(Piece(end, False, end, False) for end in ends), None, False)
    return _interval(text)


def _interval(text: str) -> Region | None:
    parts = read_parts(text)
    if parts is None or len(parts.items) != 2 or parts.kind not in ("()", "(]", "[)", "[]"):
        return None
    low, high = map(_end, parts.items)
    if low is None or high is None or low >= high:
        return None
    point = parts.kind == "()" and abs(low) != _END and abs(high) != _END
    return Region((_piece(low, parts.kind[0] == "(", high, parts.kind[1] == ")"),), None, point)


def _inequality(text: str) -> Region | None:
    signs = [_SIGNS.get(match.lstrip("\\")) for match in _RELATION.findall(text)]
    sides = [side.strip() for side in _RELATION.split(text)]
    if None in signs or len(signs) not in (1, 2) or "" in sides or len(text) > 200:
        return None
    if len(signs) == 2:
        if signs[0] is None or signs[1] is None or signs[0][0] != signs[1][0]:
            return None
        low, name, high = sides if signs[0][0] == "<" else sides[::-1]
        opens = [len(sign or "") == 1 for sign in (signs if signs[0][0] == "<" else signs[::-1])]
        ends = _end(low), _end(high)
    else:
        left_name = _NAME.fullmatch(sides[0]) is not None and _end(sides[0]) is None
        name, number = sides if left_name else sides[::-1]
        below = (signs[0] or "").startswith("<") == left_name
        value, is_open = _end(number), len(signs[0] or "") == 1
        ends = (-_END, value) if below else (value, _END)
        opens = [True, is_open] if below else [is_open, True]
    if not _NAME.fullmatch(name) or ends[0] is None or ends[1] is None:
        return None
    return Region(_joined([_piece(ends[0], opens[0], ends[1], opens[1])]), name.lstrip("\\"), False)


def same_region(one: Region, other: Region) -> bool | None:
    """Compare two sets; None where one may be a point, or they are about different variables."""
    if None not in (one.variable, other.variable) and one.variable != other.variable:
        return None
    if one.pieces != other.pieces:
        return False
    return None if one.point != other.point and (one.variable or other.variable) else True


def _piece(low: Fraction, open_low: bool, high: Fraction, open_high: bool) -> Piece:
    return Piece(low, open_low or low == -_END, high, open_high or high == _END)


def _end(text: str) -> Fraction | None:
    bare = text.replace(" ", "").replace("{", "").replace("}", "")
    if bare in (r"\infty", r"+\infty", r"-\infty"):
        return -_END if bare[0] == "-" else _END
    number = read_number(text)
    return None if number is None or abs(number.value) >= _END else number.value


def _joined(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Sorted, without empty ones, and those that touch made one."""
    found: list[Piece] = []
    for piece in sorted(pieces):
        if piece.low > piece.high or (piece.low == piece.high and (piece.open_low or piece.open_high)):
            continue
        last = found[-1] if found else None
        if last and (
            piece.low < last.high or (piece.low == last.high and not (piece.open_low and last.open_high))
        ):
            high, open_high = last.high, last.open_high
            if (piece.high, not piece.open_high) > (high, not open_high):
                high, open_high = piece.high, piece.open_high
            open_low = last.open_low and (piece.open_low or piece.low != last.low)
            found[-1] = Piece(last.low, open_low, high, open_high)
        else:
            found.append(piece)
    return tuple(found)
