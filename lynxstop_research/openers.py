"""Words that open sentences and lines of the thinking: candidates for cues, found in text alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from lynxstop.core.characters import WORD

_LETTER = r"[^\W\d_]"
_DENSE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Han and kana: scripts without spaces, where a unit is a character."""
_UNIT = re.compile(rf"[{_DENSE}]|(?:[{WORD}]|(?![{_DENSE}]){_LETTER}|(?<=\w)['’](?=\w))+")
_ENDS = re.compile(r"(?:[.!?;:…]+[\"'”’)\]*]*(?=\s)|[。！？；：…]+[」』”’）]*|\n)+")
_BEGINS_WITH_LETTER = re.compile(_LETTER)
_WORDS, _CHARACTERS = 3, 4
_CLEARLY = 0.8
"""A prefix that goes on in the same way in this share of its cases is no word of its own."""


def sentences(thought: str) -> Iterator[str]:
    """Split a thought at the ends of sentences and lines; a point inside a number ends nothing.

    Leading marks such as bullets, quotes and asterisks are cut off; what does not begin with a letter is
    left out.
    """
    for part in _ENDS.split(thought):
        bare = re.sub(r"^[\W_]+", "", part)
        if _BEGINS_WITH_LETTER.match(bare):
            yield bare


def openings(sentence: str) -> list[str]:
    """Beginnings of a sentence in lower case, short to long: up to three words, or four characters.

    Words are those that cues match; in Han and kana, which have no spaces, every character is a unit.
    """
    found: list[str] = []
    sentence, end = sentence.lower(), 0
    for unit in _UNIT.finditer(sentence):
        dense = re.match(f"[{_DENSE}]", unit.group()) is not None
        between = sentence[end : unit.start()]
        if found and between != ("" if dense else " "):
            break
        if len(found) == (_CHARACTERS if dense else _WORDS):
            break
        found.append(found[-1] + between + unit.group() if found else unit.group())
        end = unit.end()
    return found


def opening_counts(thoughts: Iterable[str]) -> Counter[str]:
    """Count how often each beginning opens a sentence."""
    return Counter(word for thought in thoughts for one in sentences(thought) for word in openings(one))


def frequent_openers(thoughts: Sequence[str], least: float = 0.05, most: int = 40) -> list[str]:
    """Return words and phrases that open sentences in many thoughts, the most frequent first.

    A beginning that nearly always goes on in the same way gives way to the longer one ("hold" to "hold on",
    "等" to "等等"); longer ones of spaced scripts are kept for no other reason.

    Parameters
    ----------
    thoughts : sequence of str
    least : float
        Share of the thoughts in which a word must open a sentence; at least two thoughts.
    most : int
        Words that are returned.
    """
    counts = opening_counts(thoughts)
    spread = Counter(
        word
        for thought in thoughts
        for word in {word for one in sentences(thought) for word in openings(one)}
    )
    enough = {word for word, n in spread.items() if n >= max(2, least * len(thoughts))}
    gives_way = {
        before[-1]
        for word in enough
        if (before := _shorter(word)) and counts[word] >= _CLEARLY * counts[before[-1]]
    }
    dense = re.compile(f"[{_DENSE}]+")
    kept = [
        word for word in enough - gives_way if dense.fullmatch(word) or gives_way.issuperset(_shorter(word))
    ]
    return sorted(kept, key=lambda word: (-spread[word], word))[:most]


def _shorter(word: str) -> list[str]:
    """Return the beginnings of a word or phrase that are shorter than it, short to long."""
    return [word[: unit.end()] for unit in list(_UNIT.finditer(word))[:-1]]
