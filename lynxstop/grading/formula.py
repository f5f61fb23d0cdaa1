"""A strict reader of formulas: what it does not understand for certain, it does not read.

A tree is a list of an operation and its operands, plain JSON: ``["add", a, b]``; the leaves are ``["number",
"1.5"]``, ``["constant", "pi"]`` and ``["symbol", "x"]``. Notation that people read in two ways is refused:
``1/2x``, ``\\sin x/2``, ``\\sin(x)^2``, ``\\sin^{-1}x``, ``2^3^2``, ``\\frac{dy}{dx}``, ``a(2)``, ``12(3)``,
``f^{(2)}``, ``u \\times v``, ``A B``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

Tree = list[Any]

LONGEST = 1000
MOST_BITS = 4096
MOST_FACTORIAL = 500
_DEEPEST = 40
_TOKEN = re.compile(r"\\[A-Za-z]+|(?:\d+(?:\.\d+)?|\.\d+)|[A-Za-z]+|[-+*/^_!(){}\[\]]")
_CONSTANTS = {r"\pi": "pi", "e": "e", "i": "i"}
_GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta",
    "iota", "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi",
    "omega", "Gamma", "Delta", "Theta", "Lambda", "Phi", "Psi",
}  # fmt: skip
"""Without "Omega", which after a number is a unit."""
_TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"}
_FUNCTIONS = _TRIGONOMETRIC | {"arcsin", "arccos", "arctan", "ln", "log", "exp"}
_NAMES_OF_FUNCTIONS = {
    *"fghFGPC", "Gamma", "zeta", "phi", "varphi", "sigma", "tau", "mu", "psi", "Phi", "Psi", "Lambda",
}  # fmt: skip
_TIMES = {"*", r"\cdot", r"\times"}
_DIVIDED = {"/", r"\div"}
_CLOSED = {"(": ")", "{": "}"}
_NOT_PRODUCTS = {
    "am", "pm", "or", "is", "no", "if", "in", "of", "to", "km", "cm", "mm", "kg", "mg", "ml", "cl", "ft",
    "lb", "oz", "yd", "mi", "hr", "st", "nd", "rd", "th", "ms",
}  # fmt: skip


class Unreadable(ValueError):
    """The text is not a formula that can be read in one way only."""


def read_formula(text: str) -> Tree | None:
    """Return the tree of a normalised answer; None when it is not read for certain."""
    if len(text) > LONGEST:
        return None
    try:
        return _Reader(text).whole()
    except Unreadable:
        return None


def fraction_of(tree: Tree) -> Fraction | None:
    """Work out a tree of rational arithmetic; None when it is not one, or too large to work out."""
    try:
        return _fraction(tree)
    except (Unreadable, ZeroDivisionError):
        return None


def has_decimals(tree: Tree) -> bool:
    """Whether a number with a decimal point occurs: it may be a rounded one."""
    if tree[0] == "number":
        return "." in tree[1]
    return any(has_decimals(part) for part in tree[1:] if isinstance(part, list))


def _fraction(tree: Tree) -> Fraction:
    operation, *operands = tree
    if operation == "number":
        return Fraction(operands[0])
    if operation not in ("add", "subtract", "multiply", "divide", "negate", "power", "factorial", "binomial"):
        raise Unreadable
    values = [_fraction(operand) for operand in operands]
    match operation:
        case "add":
            found = values[0] + values[1]
        case "subtract":
            found = values[0] - values[1]
        case "multiply":
            found = values[0] * values[1]
        case "divide":
            found = values[0] / values[1]
        case "negate":
            found = -values[0]
        case "power":
            found = _power(*values)
        case "factorial":
            found = Fraction(_product(1, _whole(values[0])))
        case _:
            above, below = map(_whole, values)
            found = (
                Fraction(_product(above - below, above), _product(1, below))
                if below <= above
                else Fraction(0)
            )
    if max(found.numerator.bit_length(), found.denominator.bit_length()) > MOST_BITS:
        raise Unreadable
    return found


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent) * bits > MOST_BITS or (base == 0 and exponent <= 0):
        raise Unreadable
    return Fraction(base ** int(exponent))


def _product(after: int, last: int) -> int:
    found = 1
    for factor in range(max(after, 0) + 1, last + 1):
        found *= factor
    return found


def _whole(value: Fraction) -> int:
    if value.denominator != 1 or not 0 <= value <= MOST_FACTORIAL:
        raise Unreadable
    return int(value)


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    place = 0
    for match in _TOKEN.finditer(text):
        if text[place : match.start()].strip():
            raise Unreadable
        place = match.end()
        token = match[0]
        if token[0].isalpha() and token not in ("degree", "degrees") and len(token) > 1:
            if token.lower() in _NOT_PRODUCTS or (len(token) > 2 and set(token) - set("xyz")):
                raise Unreadable
            if any(letter.isupper() for letter in token):
                raise Unreadable
            found += token
        else:
            found.append(token)
    if text[place:].strip():
        raise Unreadable
    return found


def _leads(tree: Tree, name: str) -> bool:
    """Whether a product begins with this symbol, or a power of it, as a derivative does."""
    while tree[0] in ("multiply", "power"):
        tree = tree[1]
    return bool(tree == ["symbol", name])


def _has_number(tree: Tree) -> bool:
    return tree[0] == "number" or any(_has_number(part) for part in tree[1:] if isinstance(part, list))


def _is_capital(tree: Tree) -> bool:
    """Whether a product ends with a capital letter: two in a row may be matrices, or points of a line."""
    if tree[0] == "multiply":
        return _is_capital(tree[2])
    return tree[0] == "symbol" and len(tree[1]) == 1 and bool(tree[1].isupper())


class _Reader:
    def __init__(self, text: str) -> None:
        self._rest = _tokens(text)[::-1]
        self._depth = 0

    def whole(self) -> Tree:
        tree = self._sum()
        if self._rest:
            raise Unreadable
        return tree

    def _next(self) -> str:
        return self._rest[-1] if self._rest else ""

    def _take(self) -> str:
        if not self._rest:
            raise Unreadable
        return self._rest.pop()

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise Unreadable

    def _sum(self) -> Tree:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Unreadable
        tree = self._term()
        while self._next() in ("+", "-") and self._next():
            operation = "add" if self._take() == "+" else "subtract"
            tree = [operation, tree, self._term()]
        self._depth -= 1
        return tree

    def _term(self) -> Tree:
        if self._next() in ("+", "-") and self._next():
            sign = self._take()
            if self._next() in ("+", "-"):
                raise Unreadable
            return ["negate", self._term()] if sign == "-" else self._term()
        tree, divided = self._factor(), False
        while True:
            token = self._next()
            if token in _TIMES:
                self._take()
                factor = self._signed()
                if token == r"\times" and not (_has_number(tree) or _has_number(factor)):
                    raise Unreadable
                tree, divided = ["multiply", tree, factor], False
            elif token in _DIVIDED:
                self._take()
                tree, divided = ["divide", tree, self._signed()], True
            elif self._starts(token):
                digits = tree[0] == "number" and self._is_bare(0) and self._rest[-2].isdigit()
                if divided or digits or token[0].isdigit() or token[0] == ".":
                    raise Unreadable
                factor = self._factor()
                if _is_capital(tree) and _is_capital(factor):
                    raise Unreadable
                tree = ["multiply", tree, factor]
            else:
                return tree

    def _signed(self) -> Tree:
        if self._next() == "-":
            self._take()
            return ["negate", self._factor()]
        return self._factor()

    @staticmethod
    def _starts(token: str) -> bool:
        return bool(token) and (token[0].isalnum() or token[0] == "." or token in _CLOSED or token[0] == "\\")

    def _factor(self) -> Tree:
        token = self._next()
        if token[:1] == "\\" and token[1:] in _FUNCTIONS:
            return self._function()
        tree = self._atom()
        if self._next() == "!":
            self._take()
            if self._next() in ("!", "^") or tree[0] == "negate":
                raise Unreadable
            tree = ["factorial", tree]
        elif self._next() == "^":
            self._take()
            if tree[0] == "symbol" and self._rest[-2:] == ["(", "{"] and self._is_bare(1):
                raise Unreadable
            tree = ["power", tree, self._exponent()]
            if (
                self._calls(tree[1])
                or self._next() in ("^", "!")
                or (tree[1] == ["constant", "e"] and "'i'" in str(tree[2]))
            ):
                raise Unreadable
        if self._next() in ("degree", "degrees"):
            self._take()
            tree = ["multiply", tree, ["divide", ["constant", "pi"], ["number", "180"]]]
        return tree

    def _exponent(self) -> Tree:
        token = self._next()
        if token in ("{", "("):
            return self._group()
        if token == "-":
            self._take()
            if not self._next().isdigit():
                raise Unreadable
            return ["negate", ["number", self._take()]]
        tree = self._atom()
        if (tree == ["number", "1"] and self._next() in _DIVIDED) or (
            tree[0] != "number" and self._next()[:1].isalnum()
        ):
            raise Unreadable
        return tree

    def _group(self) -> Tree:
        closed = _CLOSED[self._take()]
        tree = self._sum()
        self._expect(closed)
        return tree

    def _argument(self) -> Tree:
        token = self._next()
        if token in ("{", "("):
            return self._group()
        if len(token) == 1 and token.isdigit():
            return ["number", self._take()]
        if (len(token) == 1 and token.isalpha()) or token == r"\pi":
            return self._atom()
        raise Unreadable

    def _atom(self) -> Tree:
        token = self._next()
        if token in _CLOSED:
            return self._group()
        self._take()
        if token in _CONSTANTS:
            return self._constant(token)
        match token:
            case r"\frac":
                return self._fraction()
            case r"\binom":
                return ["binomial", self._argument(), self._argument()]
            case r"\sqrt":
                index: Tree = ["number", "2"]
                if self._next() == "[":
                    self._take()
                    index = ["number", self._take()]
                    self._expect("]")
                return ["root", self._argument(), index]
        if token[:1].isdigit() or token[:1] == ".":
            if self._next() == "_" or self._next()[:1].isdigit() or self._next()[:1] == ".":
                raise Unreadable
            return ["number", token]
        name = token.lstrip("\\")
        if not ((len(token) == 1 and token.isalpha()) or name in _GREEK):
            raise Unreadable
        if self._next() == "_":
            self._take()
            name += "_" + self._subscript()
        if self._calls(["symbol", name]):
            raise Unreadable
        return ["symbol", name]

    def _constant(self, token: str) -> Tree:
        if token == r"\pi" and self._is_bare(0) and self._rest[-2].isdigit():
            raise Unreadable
        return ["constant", _CONSTANTS[token]]

    def _calls(self, tree: Tree) -> bool:
        """Whether a symbol before brackets may be a function: by its name, or as its factor would be bare."""
        if tree[0] != "symbol" or self._next() != "(":
            return False
        return self._is_bare(0) or tree[1].partition("_")[0] in _NAMES_OF_FUNCTIONS

    def _is_bare(self, after: int) -> bool:
        """Whether one number or name in brackets follows, after so many tokens."""
        match self._rest[: -after - 4 : -1][after:]:
            case ["(", inside, ")"]:
                return inside.lstrip("\\").isalnum()
        return False

    def _fraction(self) -> Tree:
        above, below = self._argument(), self._argument()
        if _leads(above, "d") and below[0] == "multiply" and _leads(below, "d"):
            raise Unreadable
        return ["divide", above, below]

    def _subscript(self) -> str:
        token = self._take()
        if token == "{":
            token = self._take()
            self._expect("}")
        if not token.isalnum():
            raise Unreadable
        return token

    def _function(self) -> Tree:
        name = self._take()[1:]
        power: Tree | None = None
        base: Tree | None = None
        if name == "log" and self._next() == "_":
            self._take()
            base = self._argument()
        if self._next() == "^":
            self._take()
            power = self._exponent()
            if power[0] != "number" or name not in _TRIGONOMETRIC or power[1] in ("0", "1"):
                raise Unreadable
        if self._next() in ("(", "{"):
            argument = self._group()
            if self._next() in ("^", "!"):
                raise Unreadable
        else:
            argument = self._chain()
        tree: Tree = [name, argument] if base is None else ["log", argument, base]
        return tree if power is None else ["power", tree, power]

    def _chain(self) -> Tree:
        """The argument of a function without brackets: a product of numbers, letters, fractions and roots."""
        tree: Tree | None = None
        while (
            self._next()[:1].isalnum()
            or self._next() in (*_CONSTANTS, r"\frac", r"\sqrt")
            or (self._next()[:1] == "\\" and self._next()[1:] in _GREEK)
        ):
            if tree is not None and self._next()[:1].isdigit():
                raise Unreadable
            factor = self._factor()
            tree = factor if tree is None else ["multiply", tree, factor]
        if tree is None or self._next() in ("(", "{", "/", r"\div", "*", r"\cdot", r"\times", "!"):
            raise Unreadable
        return tree
