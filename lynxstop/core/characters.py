"""Which characters are word characters, decided on text and, with the same result, on bytes of a stream.

Word characters are ``[0-9A-Za-z_]`` and U+00C0..U+1FFF, the scripts that put spaces between words. In UTF-8
the first byte of a character decides, so a character split over two tokens does not matter.
"""

from __future__ import annotations

import re

WORD = "0-9A-Za-z_\u00c0-\u1fff"
"""Word characters, as the inside of a regular expression's class."""

SPACE = " \t\n\r\f\v"
"""White space between the words of a phrase."""

BOUNDARY, WORDLY, CONTINUATION = 0, 1, 2
"""Kinds of symbols; a continuation byte belongs to what the character's first byte was."""


def is_word(char: str) -> bool:
    """Say whether a character belongs to words."""
    return re.fullmatch(f"[{WORD}]", char) is not None


def variants(char: str) -> list[str]:
    """Spellings of a character in any case, the character itself first; all of one class."""
    forms = dict.fromkeys((char, char.lower(), char.upper(), char.title()))
    return [form for form in forms if all(is_word(part) == is_word(char) for part in form)]


def kind(symbol: int) -> int:
    """Kind of a byte, or of a symbol that is not a byte (`BOUNDARY`)."""
    if 0x80 <= symbol < 0xC0:
        return CONTINUATION
    if symbol < 0x80:
        return WORDLY if is_word(chr(symbol)) else BOUNDARY
    return WORDLY if 0xC3 <= symbol <= 0xE1 else BOUNDARY
