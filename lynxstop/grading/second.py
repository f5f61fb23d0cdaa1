"""A second comparator, which shares nothing with the first but the answers: how often do the two contradict?

It rewrites an answer into Python arithmetic, and evaluates it in interval arithmetic (mpmath) at fixed values
of its letters. Intervals that do not meet prove two answers different; intervals of 200 digits that do meet
count as equal. So it errs in other ways than the first, which proves.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, NamedTuple

_DIGITS = 200
_LONGEST, _MOST_POWER, _EXAMPLES = 300, 300, 20
_SPELLINGS = [
    (r"\\(?:left|right|displaystyle|[,;!: ])|\\?\$|\\q?quad|\s+", " "),
    (r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r" \1 "),
    (r"\\[dt]frac", r"\\frac"),
    (r"(?<=\d)\{,\}(?=\d{3})|(?<=\d),(?=\d{3}(?!\d))", ""),
    (r"\\cdot|\\times|×|·", "*"),
    (r"\\div|÷", "/"),
    ("−", "-"),
    (r"\\(sin|cos|tan|ln|exp)(?![a-z])\s*\(", r" \1("),
    (r"\\sqrt\s*\{([^{}]*)\}", r" sqrt(\1)"),
    (r"\\sqrt\s*(\d|[a-z])", r" sqrt(\1)"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"(?<![\d.)}a-z])(\d+)\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\}", r"(\1+\2/\3)"),
    (r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))"),
    (r"\^\s*\{([^{}]*)\}", r"**(\1)"),
    (r"\^\s*(\d+|[a-z])", r"**(\1)"),
    (r"\\pi(?![a-z])|π", " pi "),
    (r"\s+", " "),
]
_NAMED = re.compile(r"sqrt|sin|cos|tan|ln|exp|pi")
_TOKEN = re.compile(rf"{_NAMED.pattern}|[a-z]|\d+(?:\.\d*)?|\.\d+|\*\*|[-+*/()]")
_CHOICE = re.compile(r"\(?([A-J])(?:[.:)]+(?: (.*))?)?", re.DOTALL)
_OPEN = re.compile(
    r"\\(?:text|math)|\.\.|\d[eE][-+\d]|^\d[\d.,]*(?:/\d+)?[-–]\d[\d.,]*(?:/\d+)?$|\d\(\d+\)|\d/\d+/\d|^-?0,\d|(?<![a-z])[a-z]\(\w+\)|\\pi\(\d+\)"
    r"|\^\{\(|\^\{?o|[a-z]\s*\\times\s*[a-z]|^\\?\$[\d.,]+[a-zA-Z]"
)
"""Notation that is read in several ways."""
_ASSIGNED = re.compile(r"^\s*[a-z]\s*=(?!.*=)")
_FUNCTIONS = {"sqrt", "sin", "cos", "tan", "ln", "exp"}


class Disagreement(NamedTuple):
    """How often two comparators contradict each other.

    `n` pairs were decided by both, `disagree` of them as the same by one and as different by the other; some
    of these follow, as written. A pair that either leaves open is not counted.
    """

    n: int
    disagree: int
    examples: tuple[tuple[str, str], ...]


def disagreement_rate(
    pairs: Iterable[tuple[str, str]], first: Callable[[str, str], bool | None] | None = None
) -> Disagreement:
    """Compare pairs of extracted answers with two comparators.

    Parameters
    ----------
    pairs : iterable of (str, str)
    first : callable, optional
        The comparator to check; `answers_agree` unless given.

    Raises
    ------
    MissingExtraError
        When a pair needs sympy or mpmath and it is not installed.
    """
    if first is None:
        from lynxstop.grading.grading import answers_agree

        first = answers_agree
    n = disagree = 0
    examples: list[tuple[str, str]] = []
    for left, right in pairs:
        verdicts = second_opinion(left, right), first(left, right)
        if None in verdicts:
            continue
        n += 1
        if verdicts[0] is not verdicts[1]:
            disagree += 1
            examples.append((left, right))
    return Disagreement(n, disagree, tuple(examples[:_EXAMPLES]))


def second_opinion(left: str, right: str) -> bool | None:
    """Compare two extracted answers; None where either is neither a letter nor arithmetic."""
    if max(len(left), len(right)) > _LONGEST:
        return None
    choices = _CHOICE.fullmatch(_respelled(left)), _CHOICE.fullmatch(_respelled(right))
    if choices[0] and choices[1]:
        open_options = choices[0][2] and choices[1][2] and choices[0][2] != choices[1][2]
        return None if open_options else choices[0][1] == choices[1][1]
    if choices != (None, None) or _OPEN.search(left) or _OPEN.search(right):
        return None
    names = [_ASSIGNED.match(_respelled(text)) for text in (left, right)]
    if names[0] and names[1] and names[0][0].split() != names[1][0].split():
        return None
    lists = [_listed(text) for text in (left, right)]
    if lists[0][0] != lists[1][0]:
        return None
    if len(lists[0][1]) != len(lists[1][1]):
        return False
    verdicts = [_same(one, other) for one, other in zip(lists[0][1], lists[1][1], strict=True)]
    if lists[0][0] not in ("()", "") and False in verdicts:
        return None
    return False if False in verdicts else None if None in verdicts else True


def _respelled(text: str) -> str:
    text = re.sub(r"^\s*(?:\\[(\[]|\$+)|(?:\\[)\]]|\$+)\s*$", "", text.strip())
    previous = None
    while text != previous:
        previous = text
        for pattern, spelling in _SPELLINGS:
            text = re.sub(pattern, spelling, text)
    return text.strip().rstrip(".").strip()


def _listed(text: str) -> tuple[str, list[str]]:
    """The brackets around a tuple and its parts; in other lists the order may not matter."""
    text = _ASSIGNED.sub("", _respelled(text))
    if re.fullmatch(r"\([^()]*,[^()]*\)", text):
        return "()", text[1:-1].split(",")
    return "", [text]


def _same(left: str, right: str) -> bool | None:
    """Whether the values at three points meet; a percentage may be compared with its hundredth."""
    percents = left.endswith("%"), right.endswith("%")
    texts = [text.rstrip("%\\ ") for text in (left, right)]
    try:
        trees = [ast.parse(_python(text), mode="eval").body for text in texts]
        ratios = [Fraction(1)] if percents[0] == percents[1] else [Fraction(1), Fraction(100)]
        percent, other = trees if percents[0] else trees[::-1]
        return any(all(_meet(percent, other, ratio, at) for at in (1, 2, 3)) for ratio in ratios)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError, TypeError):
        return None


def _python(text: str) -> str:
    """Multiplication signs where they are left out; a quotient before such a product is refused."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text.replace(" ", "") or re.search(
        r"\d\s+\d|[-+] *[-+]|[a-z]{2}", _NAMED.sub("", text)
    ):
        raise ValueError("no arithmetic")
    found: list[str] = []
    for token in tokens:
        last = found[-1] if found else "("
        if (last in _FUNCTIONS) > (token == "("):
            raise ValueError("a function without brackets")
        if (
            (last[-1].isalnum() or last == ")")
            and last not in _FUNCTIONS
            and (token[0].isalnum() or token == "(")
        ):
            if token[0].isdigit() or "/" in found[-4:]:
                raise ValueError("read in two ways")
            found.append("*")
        found.append(token)
    return "".join(map(_exact, found))


def _exact(token: str) -> str:
    """A decimal as a quotient: as a float of Python it would lose digits."""
    whole, point, after = token.partition(".")
    return f"({int(whole + after)}/{10 ** len(after)})" if point and (whole + after).isdigit() else token


def _meet(left: ast.expr, right: ast.expr, ratio: Fraction, point: int) -> bool:
    from mpmath import iv

    before, iv.dps = iv.dps, _DIGITS
    try:
        one, other = _value(left, iv, point), _value(right, iv, point) * ratio.numerator
        width = max(abs(one).b, abs(other).b) * iv.mpf(10) ** (_DIGITS // -2)
        difference = one - other
        if 0 not in difference:
            return False
        if difference.delta.b > width.b and difference.delta.b > 0:
            raise ValueError("not known well enough")
        return True
    finally:
        iv.dps = before


def _value(node: ast.expr, iv: Any, point: int) -> Any:
    match node:
        case ast.Constant(value=int(number)):
            return iv.mpf(number)
        case ast.Name(id="pi"):
            return iv.pi
        case ast.Name(id="e"):
            return iv.e
        case ast.Name(id=name) if len(name) == 1 and name != "i":
            return iv.mpf(ord(name) + 7 * point) / (59 + point)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, iv, point)
        case ast.Call(func=ast.Name(id=name), args=[argument]) if name in _FUNCTIONS:
            value = _value(argument, iv, point)
            if (name == "sqrt" and value.a < 0) or (name == "ln" and value.a <= 0):
                raise ValueError("not real")
            return getattr(iv, {"ln": "log"}.get(name, name))(value)
        case ast.BinOp(left=left, op=operator, right=right):
            return _worked(operator, _value(left, iv, point), _value(right, iv, point))
    raise ValueError("no arithmetic")


def _worked(operator: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(operator, ast.Pow) and 0 in left and right.a <= 0:
        raise ValueError("not defined")
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div() if 0 not in right:
            return left / right
        case ast.Pow() if abs(right).b <= _MOST_POWER and right.a == right.b and right.a == int(right.a):
            return left ** int(right.a)
        case ast.Pow() if abs(right).b <= _MOST_POWER and left.a > 0:
            return left**right
    raise ValueError("not worked out")
