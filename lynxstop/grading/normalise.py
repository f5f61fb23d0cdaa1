"""One spelling for answers that differ only in how they are written."""

from __future__ import annotations

import re

_WRAPPERS = re.compile(
    r"\\(?:text(?:bf|rm|it|sf|tt|up|normal)?|emph|math(?:rm|bf)|bm|boldsymbol|operatorname|boxed|mbox|hbox)"
    r"\s*\{(?P<inner>[^{}]*)\}"
)
_SPACING = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])|\\displaystyle|(?<!\\)\\[,;:! ]|\\q?quad(?![a-z])|~"
)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:\{(\w+)\}|(\d))\s*(?:\{(\w+)\}|(\d))")
_NAME = r"[A-Za-z](?:_\{?\w+\}?)?(?:\([a-z]\))?"
_VARIABLE = re.compile(rf"^{_NAME}\s*(?:=|\\in(?![a-z]))\s*")
_ROOT = re.compile(r"√\s*(\d+(?:\.\d+)?)")
_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(?:sqrt|(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|pi)(?![A-Za-z])"
)
_FIRST_SYMBOL = re.compile(
    r"([-+]?)\s*(\\?\$|€|£|¥|USD|EUR|GBP)\s*([-+]?(?:\d|\.\d)[\d.,]*(?: (?:million|billion))?)"
)
_CURRENCY = {
    "$": "dollars", "€": "euros", "£": "pounds sterling", "¥": "yen",
    "USD": "dollars", "EUR": "euros", "GBP": "pounds sterling",
}  # fmt: skip
_METRIC = {"m": "meter", "g": "gram", "s": "second", "l": "liter", "L": "liter", "h": "hour"}
_LETTER_UNIT = re.compile(r"\\(?:text|mathrm|textrm)\s*\{\s*([mgslLh])\s*(?=[}/^ ])")
_GROUPED = re.compile(r"(?<=\d)(?:\{,\}|,\\!)(?=\d{3})")
_LAST_SYMBOLS = {"€": "euros", "£": "pounds sterling", "¥": "yen", r"\$": "dollars"}
_POWER = re.compile(r"(?<=[A-Za-z]) \^(?= ?\{?[-\d])")
_INFINITY = re.compile(r"(?<![A-Za-z])(?:infinity|inf)(?![A-Za-z])", re.IGNORECASE)
_APPROXIMATE = re.compile(r"^\s*~")
_TIMES = re.compile(r"(?<=\d) ?[xX] ?(?=10 ?\^)")
_NAMES = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\%": "%",
    r"\dbinom": r"\binom", r"\tbinom": r"\binom",
    "{,}": ",", "...": r"\ldots ", "…": r"\ldots ", "²": "^2", "³": "^3", "½": r"\frac{1}{2}",
    r"\leqslant": r"\leq", r"\geqslant": r"\geq", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ",
    "≈": r"\approx ",
    "+/-": r"\pm ", "+-": r"\pm ", r"\textdegree": " degrees", r"\degree": " degrees",
    r"\emptyset": r"\{\}", r"\varnothing": r"\{\}", "∅": r"\{\}", r"\lbrace": r"\{", r"\rbrace": r"\}",
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
    "∪": r"\cup ", "√": r"\sqrt ", "±": r"\pm ",
    r"^{\circ}": " degrees", r"^\circ": " degrees", "°": " degrees",
}  # fmt: skip


def normalise(answer: str) -> str:
    """Return the answer without wrappers, spacing commands and alternative spellings; "" if nothing is left.

    Keeps whatever carries meaning: brackets, order, percent signs, units.
    """
    text = _ROOT.sub(r"\\sqrt{\1}", _GROUPED.sub(",", answer.strip()))
    for name, plain in _NAMES.items():
        text = text.replace(name, plain)
    text = _APPROXIMATE.sub(r"\\approx ", text)
    text = _LETTER_UNIT.sub(lambda match: rf"\text{{ {_METRIC[match[1]]} ", text)
    text = _SPACING.sub(" ", text)
    text = _TIMES.sub(r"\\times ", text)
    text = _FUNCTION.sub(r"\\\g<0>", text)
    previous = None
    while text != previous:
        previous = text
        text = _WRAPPERS.sub(lambda match: f" {match['inner']} ", text)
        text = _SHORT_FRACTION.sub(_braced, text)
        text = " ".join(text.split()).rstrip(".;\\ ")
        for left, right in _DELIMITERS:
            if text.startswith(left) and text.endswith(right) and len(text) > len(left + right):
                text = text[len(left) : -len(right)].strip()
    text = _POWER.sub("^", text)
    money = _FIRST_SYMBOL.match(text)
    if money:
        text = f"{money[1]}{money[3]} {_CURRENCY[money[2].lstrip(chr(92))]}{text[money.end() :]}"
    for symbol, word in _LAST_SYMBOLS.items():
        text = text.removesuffix(symbol).rstrip() + f" {word}" if text.endswith(symbol) else text
    text = text.lstrip("$").strip()
    text = _INFINITY.sub(r"\\infty", text)
    return _VARIABLE.sub("", text) if text.count("=") <= 1 else text


def named_variable(answer: str) -> str | None:
    """The variable of an answer such as "x = 3", which `normalise` drops."""
    match = re.match(rf"[\s$(\\]*({_NAME})\s*=", answer) if answer.count("=") == 1 else None
    return match[1] if match else None


def _braced(match: re.Match[str]) -> str:
    above, below = match[1] or match[2], match[3] or match[4]
    return rf"\frac{{{above}}}{{{below}}}"
