"""Numbers with a unit, read exactly: integers, fractions, decimals, percentages and their arithmetic."""

from __future__ import annotations

import ast
import re
from fractions import Fraction
from typing import NamedTuple

_LONGEST = 200
_MOST_BITS = 4096
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d/])")
_PLAIN = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")
_MIXED = re.compile(r"([-+]?)(\d+) ?(?:\\frac\{(\d+)\}\{(\d+)\}|(?<= )(\d+)/(\d+))")
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_POWER = re.compile(r"\^\s*(?:\{([^{}]*)\}|(\d))")
_ARITHMETIC = re.compile(r"[\d\s.+\-*/()]+")
_SHORT_UNITS = "mm|cm|dm|km|mg|kg|ml|cl|ft|in|yd|mi|lb|oz|hr|min|sec|ms"
_UNIT = re.compile(
    r"(?P<number>.*[\d)}.])"
    rf"(?P<unit>\s*%|(?: ?(?:{_SHORT_UNITS})| [mgslh]| ?[A-Za-z]{{3,}}(?:[ /][A-Za-z]+)*)(?:\^\{{?[23]\}}?)?)"
)


class Quantity(NamedTuple):
    """A number as written: `value` before any division by 100, `decimals` as spelled out (-1: no point)."""

    value: Fraction
    unit: str
    decimals: int


def read_quantity(text: str) -> Quantity | None:
    """Read a normalised answer as one exact number with an optional unit; None when it is anything else.

    Powers are only worked out while they stay small, so that no answer can exhaust the machine.
    """
    number, unit = text, ""
    value = _number(text)
    if value is None:
        match = _UNIT.fullmatch(text)
        if match is None:
            return None
        number, unit = match["number"].strip(), " ".join(match["unit"].split()).lower()
        value = _number(number)
    if value is None:
        return None
    point = number.rfind(".")
    return Quantity(value, unit, len(number) - point - 1 if point >= 0 and _PLAIN.fullmatch(number) else -1)


def same_quantity(left: Quantity, right: Quantity) -> bool | None:
    """Compare two quantities; None when their units cannot be compared.

    A unit on one side only is ignored. "50%" equals both "50" and "1/2": answers are asked for in either
    form. A decimal with six places or more equals the number it rounds.
    """
    percents = (left.unit == "%") + (right.unit == "%")
    if percents == 1:
        whole, other = (left, right) if left.unit == "%" else (right, left)
        if other.unit:
            return None
        return _close(whole, other) or _close(whole._replace(value=whole.value / 100, decimals=-1), other)
    if left.unit and right.unit and left.unit.rstrip("s") != right.unit.rstrip("s"):
        return None if left.value else False
    return _close(left, right)


def _close(left: Quantity, right: Quantity) -> bool:
    if left.value == right.value:
        return True
    return any(
        one.decimals >= 6 and other.decimals < 0 and round(other.value, one.decimals) == one.value
        for one, other in ((left, right), (right, left))
    )


def _number(text: str) -> Fraction | None:
    text = text.strip()
    if not text or len(text) > _LONGEST:
        return None
    text = _THOUSANDS.sub(lambda match: re.sub("[, ]", "", match[0]), text)
    if _PLAIN.fullmatch(text):
        return Fraction(text)
    mixed = _MIXED.fullmatch(text)
    if mixed:
        sign, whole, *parts = mixed.groups()
        above, below = (int(part) for part in parts if part is not None)
        return Fraction(f"{sign}1") * (int(whole) + Fraction(above, below)) if below else None
    previous = None
    while text != previous:
        previous = text
        text = _FRACTION.sub(r"((\1)/(\2))", text)
        text = _POWER.sub(lambda match: f"**({match[1] or match[2]})", text)
    text = re.sub(r"\\times(?![a-z])|\\cdot(?![a-z])|\\div(?![a-z])", _operator, text)
    if not _ARITHMETIC.fullmatch(text) or "//" in text:
        return None
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body, text.strip())
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _operator(match: re.Match[str]) -> str:
    return "/" if match[0] == r"\div" else "*"


def _evaluate(node: ast.expr, source: str) -> Fraction:
    match node:
        case ast.Constant():
            return Fraction(ast.get_source_segment(source, node) or "")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, source)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _evaluate(operand, source)
        case ast.BinOp(left=left, op=operator, right=right):
            return _apply(operator, _evaluate(left, source), _evaluate(right, source))
    raise ValueError("not arithmetic")


def _apply(operator: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow():
            bits = max(left.numerator.bit_length(), left.denominator.bit_length())
            if right.denominator == 1 and abs(right) * bits <= _MOST_BITS:
                return left ** int(right)
    raise ValueError("too large, or not arithmetic")
