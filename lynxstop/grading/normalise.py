"""One spelling for answers that differ only in how they are written."""

from __future__ import annotations

import re
import unicodedata

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
_VARIABLE = re.compile(rf"^(?P<name>{_NAME})\s*(?:=|\\in(?![a-z]))\s*")
_ROOT = re.compile(r"√\s*(\d+(?:\.\d+)?)")
_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(?:sqrt|(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|pi)(?![A-Za-z])"
)
_FIRST_SYMBOL = re.compile(
    r"([-+]?)\s*(\\?\$|€|£|¥|USD|EUR|GBP)\s*([-+]?(?:\d|\.\d)[\d.,]*(?: (?:million|billion))?)"
    r"(?:(?P<scale>k|mn?|bn?|tn?)(?![A-Za-z^])|(?![\dA-Za-z]))",
    re.IGNORECASE,
)
_SCALES = {"k": "thousand", "m": "million", "b": "billion", "t": "trillion"}
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
_RAISED_O = re.compile(r"(?<=\d) ?\^ ?(?:\{ ?)?(?:o|\\(?:text|mathrm) ?\{ ?o ?\})(?: ?\})?(?![A-Za-z])|[º˚]")
_MICRO = re.compile(r"(?<=\d) ?\\mu ?(?=[A-Za-z]$)")
_TIMES = re.compile(r"(?<=\d) ?[xX] ?(?=10 ?\^)")
_NAMES = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\%": "%",
    r"\dbinom": r"\binom", r"\tbinom": r"\binom",
    "{,}": ",", "...": r"\ldots ", "…": r"\ldots ",
    r"\leqslant": r"\leq", r"\geqslant": r"\geq", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ",
    "≈": r"\approx ",
    "+/-": r"\pm ", "+-": r"\pm ", r"\textdegree": " degrees", r"\degree": " degrees",
    r"\emptyset": r"\{\}", r"\varnothing": r"\{\}", "∅": r"\{\}", r"\lbrace": r"\{", r"\rbrace": r"\}",
    "⟨": r"\langle ", "⟩": r"\rangle", "ℝ": r"\mathbb{R}",
    "−": "-", "–": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-",
    "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
    "∪": r"\cup ", "√": r"\sqrt ", "±": r"\pm ",
    r"^{\circ}": " degrees", r"^\circ": " degrees", "°": " degrees",
}  # fmt: skip
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | str.maketrans("、٪⁄", ",%/")
_VULGAR = re.compile(r"[¼-¾⅐-⅞]")
_RAISED = re.compile(r"[⁺⁻]?[⁰¹²³⁴-⁹]+")
_SIGNS = str.maketrans("−", "-")
_LOWERED = re.compile(r"[₀-₉]+")


def normalise(answer: str) -> str:
    """Return the answer without wrappers, spacing commands and alternative spellings; "" if nothing is left.

    Keeps whatever carries meaning: brackets, order, percent signs, units.
    """
    text = _spelt(answer)
    return _VARIABLE.sub("", text) if text.count("=") <= 1 else text


def named_variable(answer: str) -> str | None:
    """The variable of an answer such as "x = 3" or "x \\in [0, 1]", which `normalise` drops."""
    text = _spelt(answer)
    match = _VARIABLE.match(text) if text.count("=") <= 1 else None
    return match["name"] if match else None


def _spelt(answer: str) -> str:
    text = _in_ascii(_GROUPED.sub(",", answer.strip()))
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    for name, plain in _NAMES.items():
        text = text.replace(name, plain)
    text = _APPROXIMATE.sub(r"\\approx ", text)
    text = _LETTER_UNIT.sub(lambda match: rf"\text{{ {_METRIC[match[1]]} ", text)
    text = _RAISED_O.sub(" degrees", text)
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
    text = _MICRO.sub(" µ", _POWER.sub("^", text))
    money = _FIRST_SYMBOL.match(text)
    if money:
        scale = f" {_SCALES[money['scale'][0].lower()]}" if money["scale"] else ""
        currency = _CURRENCY[money[2].lstrip("\\").upper()]
        text = f"{money[1]}{money[3]}{scale} {currency}{text[money.end() :]}"
    for symbol, word in _LAST_SYMBOLS.items():
        text = text.removesuffix(symbol).rstrip() + f" {word}" if text.endswith(symbol) else text
    text = text.lstrip("$").strip()
    return _INFINITY.sub(r"\\infty", text)


def _in_ascii(text: str) -> str:
    """Full-width characters, fractions, powers and indices of one character as LaTeX."""
    text = _VULGAR.sub(lambda found: rf"\frac{{{_compatible(found[0]).replace('⁄', '}{')}}}", text)
    text = _RAISED.sub(lambda found: f"^{{{_compatible(found[0]).translate(_SIGNS)}}}", text)
    text = _LOWERED.sub(lambda found: f"_{{{_compatible(found[0])}}}", text)
    return text.translate(_FULL_WIDTH)


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _braced(match: re.Match[str]) -> str:
    above, below = match[1] or match[2], match[3] or match[4]
    return rf"\frac{{{above}}}{{{below}}}"
