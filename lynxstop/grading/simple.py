"""Answers that are the letter of a choice, or yes and no."""

from __future__ import annotations

import re
from typing import NamedTuple

_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s+)?[(\[]?(?P<letter>[A-Z])(?:[.):\]]+(?:\s+(?P<option>.*))?)?",
    re.IGNORECASE | re.DOTALL,
)
_DECORATION = " \t\n*_`\"'"
_PRIMED = re.compile(r"[^'*]+['*]")
"""What a mark at the end names apart: "A'" and "A*" are not "A"."""
_BOTH = re.compile(
    r"(?:yes|no|true|false|y|n)\W*(?:/|\b(?:and|or|but)\b)\W*(?:yes|no|true|false|y|n)\b.*|n/a.*", re.DOTALL
)
_TRUTH = {"yes": True, "true": True, "y": True, "no": False, "false": False, "n": False}


class Choice(NamedTuple):
    """The letter of a choice as written, and the text of the option where it is given too."""

    letter: str
    option: str


def read_choice(text: str) -> Choice | None:
    """Read "B", "(b)", "option B" or "B. New York"."""
    match = _CHOICE.fullmatch(text.strip(_DECORATION))
    return (
        None
        if match is None or _PRIMED.fullmatch(text.strip())
        else Choice(match["letter"], (match["option"] or "").strip(_DECORATION))
    )


def read_truth(text: str) -> bool | None:
    """Read an answer that opens with yes, no, true, false, y or n, and not with two of them."""
    text = text.strip(_DECORATION + "(").lower()
    return None if _BOTH.fullmatch(text) else _TRUTH.get(re.split(r"\W+", text, maxsplit=1)[0])
