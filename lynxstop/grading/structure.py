"""Answers made of parts: tuples, intervals, sets, lists and unions."""

from __future__ import annotations

import re
from typing import NamedTuple

from lynxstop.grading.exact import is_european

_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?\D*")
_WORDS = re.compile(r"\s+(?:and|or)\s+")
_ZEROS = re.compile(r"(?<=\d),\s?(?=0\d\d(?!\d))")
_GROUPS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


class Parts(NamedTuple):
    """The parts of an answer; `kind` is the brackets around them, "list" without any, or "union"."""

    kind: str
    items: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        """Whether the order of the parts carries meaning."""
        return self.kind not in ("{}", "list", "union")


def read_parts(text: str) -> Parts | None:
    """Take a normalised answer apart; None when it is one thing (brackets around it do not count)."""
    if is_european(text):
        return None
    unions = _split(text, r"\cup")
    if len(unions) > 1:
        return Parts("union", unions)
    listed = _split(_WORDS.sub(",", text).replace(",,", ","), ",")
    if text.count(r"\pm") == 1 and len(listed) == 1 and not text.startswith(r"\{"):
        return Parts("list", _signs(text))
    inner = _inside(text)
    if inner is not None:
        items = _split(inner, ",")
        kind = text.removeprefix("\\")[0] + text[-1]
        if kind == "{}":
            set_like = text.startswith("\\")
            signed = tuple(value for item in items for value in _signs(item))
            return Parts(kind if set_like else "list", signed if inner.strip() else ())
        return Parts(kind, items) if len(items) > 1 else None
    signed = tuple(value for item in listed for value in _signs(item))
    return Parts("list", signed) if len(listed) > 1 else None


def _signs(text: str) -> tuple[str, ...]:
    """Both values of an expression with one plus-minus."""
    if text.count(r"\pm") != 1:
        return (text,)
    before, after = (part.strip() for part in text.split(r"\pm"))
    return f"{before}+{after}" if before else after, f"{before}-{after}"


def maybe_one_number(text: str) -> bool:
    """Say whether the commas of a list such as "1,234" can also be thousands separators."""
    return _THOUSANDS.fullmatch(text) is not None


def ungrouped(text: str) -> str:
    """Leave out the commas within parts that can be thousands separators: "(1,000)", and "1,000, 2,000"."""
    spaced = ", " in text and text[:1] not in "([{\\"
    return (_GROUPS if spaced else _ZEROS).sub("", text)


def _inside(text: str) -> str | None:
    """The text between brackets that enclose all of `text`, half-open intervals included."""
    set_like = text.startswith(r"\{") and text.endswith(r"\}")
    braced = text[:1] == "{" and text[-1:] == "}"
    if not (set_like or braced) and not (text[:1] in ("(", "[") and text[-1:] in (")", "]")):
        return None
    depth = 0
    for place, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth == 0 and place < len(text) - 1:
                return None
    if depth:
        return None
    return text[2:-2] if set_like else text[1:-1]


def _split(text: str, separator: str) -> tuple[str, ...]:
    parts, depth, start, place = [], 0, 0, 0
    while place < len(text):
        if text[place] in "([{":
            depth += 1
        elif text[place] in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(separator, place):
            parts.append(text[start:place].strip())
            place += len(separator)
            start = place
            continue
        place += 1
    return (*parts, text[start:].strip())
