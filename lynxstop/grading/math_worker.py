"""Worker that decides whether two formulas are equal; started by path, it imports nothing of this package.

Reads one JSON pair of trees (`lynxstop.grading.formula`) per line, writes one of ``true``, ``false`` and
``null`` (undecided) per line. Equal needs a proof in exact arithmetic; different needs a value at which the
difference is certainly not zero.
"""

from __future__ import annotations

import json
import logging
import operator
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

SECONDS = 4.0
MOST_MEMORY = 4 << 30
_DIGITS, _CLOSE = 30, 6
_MOST_BITS, _MOST_FACTORIAL = 4096, 500
_POINTS = (("17/10", "23/19"), ("31/12", "5/7"), ("3/11", "41/13"))
"""Where formulas with symbols are compared: start and factor of the symbols' values, all positive."""
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": operator.truediv,
    "negate": operator.neg,
}  # fmt: skip
_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log"}


class Expired(BaseException):
    """Not an Exception, so that no handler inside the libraries turns a timeout into a verdict."""


class Alarm:
    """Raises `Expired` when the time is up, and remembers that it did."""

    def __init__(self) -> None:
        self.expired = False

    def ring(self, _signal: int, _frame: FrameType | None) -> NoReturn:
        """Handle the signal."""
        self.expired = True
        raise Expired

    def compare(self, left: list[Any], right: list[Any]) -> bool | None:
        """Return None on a timeout, and on whatever cannot be worked out."""
        self.expired = False
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            verdict = _compare(left, right)
        except (Exception, Expired):
            return None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return None if self.expired else verdict


def _compare(left: list[Any], right: list[Any]) -> bool | None:
    import sympy

    one, other = _built(left), _built(right)
    if one.has(sympy.nan, sympy.zoo, sympy.oo) or other.has(sympy.nan, sympy.zoo, sympy.oo):
        return None
    unknown_base = sympy.Symbol("log base", positive=True)
    names = [sorted(map(str, formula.free_symbols - {unknown_base})) for formula in (one, other)]
    if names[0] != names[1] and all(names):
        return None
    difference = one - other
    if not difference.free_symbols:
        found = _number(difference)
        if found is False and _rounded(left, right) and _near(difference, one, other):
            return None
    else:
        found = _function(difference)
        if found is False and (unknown_base in difference.free_symbols or _rounded(left, right)):
            return None
        if found is False and (_odd_root(left) or _odd_root(right)):
            return None
    return found


def _number(difference: Any) -> bool | None:
    if difference.is_Rational:
        return bool(difference == 0)
    if _not_zero(difference):
        return False
    return True if _zero(difference) else None


def _function(difference: Any) -> bool | None:
    symbols = sorted(difference.free_symbols, key=str)
    values = [value for value in (_at(difference, symbols, point) for point in _POINTS) if value is not None]
    if any(_not_zero(value) for value in values):
        return False
    return True if values and _zero(difference) else None


def _at(difference: Any, symbols: list[Any], point: tuple[str, str]) -> Any:
    """The difference at a point; None where it is not finite, or complex without need."""
    import sympy

    value, factor = map(sympy.Rational, point)
    found = difference.subs({symbol: value * factor**place for place, symbol in enumerate(symbols)})
    if found.has(sympy.nan, sympy.zoo, sympy.oo):
        return None
    if not difference.has(sympy.I) and abs(sympy.im(found.evalf(_DIGITS))) > sympy.Rational(1, 10**20):
        return None
    return found


def _zero(difference: Any) -> bool:
    """Prove zero by exact rewriting; the decimals, which are not a proof, must not contradict."""
    import sympy

    for rewrite in (sympy.expand, sympy.radsimp, lambda d: sympy.expand_log(d, force=False), sympy.simplify):
        if rewrite(difference) == 0:
            return True
    if difference.is_algebraic and not difference.free_symbols:
        unknown = sympy.Symbol("x")
        return bool(sympy.minimal_polynomial(difference, unknown) == unknown)
    return False


def _not_zero(value: Any) -> bool:
    """Whether the value differs from zero in digits that are certain."""
    import sympy

    if value.is_Rational:
        return bool(value != 0)
    for digits in (_DIGITS, 10 * _DIGITS):
        try:
            found = value.evalf(_CLOSE, maxn=digits, strict=True)
        except sympy.core.evalf.PrecisionExhausted:
            continue
        parts = [part for part in found.as_real_imag() if part.is_Float]
        return any(part != 0 for part in parts)
    return False


def _near(difference: Any, *values: Any) -> bool:
    most = max(abs(value.evalf(15)) for value in values)
    return bool(abs(difference.evalf(15)) <= 10.0**-_CLOSE * most)


def _rounded(*trees: list[Any]) -> bool:
    return any(
        (tree[0] == "number" and "." in tree[1])
        or _rounded(*(part for part in tree[1:] if isinstance(part, list)))
        for tree in trees
    )


def _odd_root(tree: list[Any]) -> bool:
    """Odd roots of a symbol: real or complex where it is negative, as the reader likes."""
    if tree[0] == "root" and tree[2] != ["number", "2"]:
        return True
    return any(_odd_root(part) for part in tree[1:] if isinstance(part, list))


def _built(tree: list[Any]) -> Any:
    import sympy

    operation, *operands = tree
    if operation == "number":
        return sympy.Rational(operands[0])
    if operation == "symbol":
        return sympy.Symbol(operands[0])
    if operation == "constant":
        return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}[operands[0]]
    values = [_built(operand) for operand in operands]
    if operation in _ARITHMETIC:
        return _ARITHMETIC[operation](*values)
    match operation:
        case "power":
            return _power(*values)
        case "root":
            return _root(*values)
        case "factorial" | "binomial":
            if not all(value.is_Integer and 0 <= value <= _MOST_FACTORIAL for value in values):
                raise ValueError("too large, or no whole number")
            return getattr(sympy, operation)(*values)
        case "log" if len(values) == 2:
            return sympy.log(values[0]) / sympy.log(values[1])
        case "log":
            return sympy.log(values[0]) / sympy.Symbol("log base", positive=True)
        case "exp":
            return _power(sympy.E, values[0])
    return getattr(sympy, _NAMES.get(operation, operation))(values[0])


def _power(base: Any, exponent: Any) -> Any:
    if exponent.is_Rational:
        if exponent.q != 1 and base.is_number and not base.is_nonnegative:
            raise ValueError("a real or a complex root?")
        size = max(abs(base.p), base.q).bit_length() if base.is_Rational else 4
        if abs(exponent) * size > _MOST_BITS:
            raise ValueError("too large")
        if base == 0 and exponent <= 0:
            raise ValueError("not defined")
    return base**exponent


def _root(radicand: Any, index: Any) -> Any:
    if not (index.is_Integer and 2 <= index <= 100):
        raise ValueError("no root of this kind")
    if index % 2 and radicand.is_number:
        if not radicand.is_extended_real:
            raise ValueError("a real or a complex root?")
        if radicand.is_negative:
            return -((-radicand) ** (1 / index))
    return radicand ** (1 / index)


def main() -> None:
    """Serve until standard input ends."""
    logging.disable(logging.CRITICAL)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    except (ImportError, OSError, ValueError):
        pass
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alarm = Alarm()
    signal.signal(signal.SIGALRM, alarm.ring)
    root = ["root", ["number", "2"], ["number", "2"]]
    half = ["power", ["number", "2"], ["divide", ["number", "1"], ["number", "2"]]]
    if _compare(root, half) is not True:
        raise SystemExit(1)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(alarm.compare(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
