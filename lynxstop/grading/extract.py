"""Where the answer stands in a text: the last box, else the last answer line."""

from __future__ import annotations

import re

_BOX = re.compile(r"\\boxed\s*\{")
_LINE = re.compile(
    r"(?:####|\b(?:answer|option|choice)\b\s*(?:is|:|=)+\s*:?)[ \t*_]*(?P<answer>[^\n]+?)"
    r"(?=[.!?;]*(?:\n|\Z)|[.!?;]\s)",
    re.IGNORECASE,
)
_BARE = re.compile(r"\(?[A-J]\)?|[-+]?[\d.,/]*\d%?|yes|no|true|false", re.IGNORECASE)


def extract_answer(text: str) -> str | None:
    """Return the answer a text ends on, as written.

    Parameters
    ----------
    text : str
        What follows the thinking, forced exit text included.

    Returns
    -------
    str or None
        The content of the last ``\\boxed{}``; without any box, the end of the last phrase such as "The
        answer is 7."; else the whole text where it is nothing but a number, a letter or yes/no. None when
        there is no answer, and when the last box is never closed: a cut-off answer is not an answer, and an
        earlier box is one the model went back on.
    """
    boxes = list(_BOX.finditer(text))
    if boxes:
        content = _balanced(text, boxes[-1].end())
        return (content.strip() or None) if content is not None else None
    lines = list(_LINE.finditer(text))
    if lines:
        return lines[-1]["answer"].strip(" \t*_:") or None
    bare = text.strip().rstrip(".")
    return bare if _BARE.fullmatch(bare) else None


def _balanced(text: str, start: int) -> str | None:
    """Text from `start` up to the brace that closes the one just before it; escaped braces do not count."""
    depth = 1
    escaped = False
    for place in range(start, len(text)):
        character = text[place]
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[start:place]
    return None
