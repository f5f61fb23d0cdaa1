"""The toy model's tokens: text to ids and back, and how likely each token was."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lynxstop.testing.reasoner import CLOSE, OPEN, held

_TOKEN = re.compile(r"<think>|</think>|<\|\w+\|>| ?[^\W\d_]+| ?-?\d+|\n+|[^\w\s]|\s|.", re.DOTALL)
_SOME = "So the we get now then this is fine let me try to see what it was and check again"
_WORDS = tuple(f" {word}" for word in _SOME.split())
_CUES = {"Wait", "Hmm", "Alternatively"}
_SHARES = [0.4 * 0.6**i for i in range(20)]


class MockVocabulary:
    """Numbers the tokens as they are met; ids hold as long as the process lives."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._ids: dict[str, int] = {}

    def id(self, token: str) -> int:
        """Return the id of a token."""
        if token not in self._ids:
            self._ids[token] = len(self._texts)
            self._texts.append(token)
        return self._ids[token]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's tokens."""
        return [self.id(token) for token in split(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; unknown ones are left out."""
        return "".join(self._texts[i] for i in ids if 0 <= i < len(self._texts))


@dataclass(slots=True)
class Token:
    """One generated token.

    Attributes
    ----------
    text : str
    part : str
        "open", "thinking", "close" or "answer".
    logprob : float
        Of this token, natural logarithm.
    rivals : list of (str, float)
        Other tokens and their log-probabilities, the likeliest first; some 20 or none.
    """

    text: str
    part: str
    logprob: float
    rivals: list[tuple[str, float]]


def split(text: str) -> list[str]:
    """Split a text into tokens; joined, they are the text."""
    return _TOKEN.findall(text)


def weigh(before: str, text: str, seed: int, *, rivals: bool) -> list[Token]:
    """Split a continuation into tokens and give each a probability.

    Numbers and cue words are likely where the answer held is the one that stands at the end, and unlikely
    where it is revised later. At cues `</think>` is a rival, and a strong one where the answer is right.

    Parameters
    ----------
    before : str
        The assistant's text in front of the continuation.
    seed : int
        Of the probabilities.
    rivals : bool
        Whether to name other tokens too.
    """
    chance = Random(f"{seed}/{len(before)}/{len(text)}")
    thinking = (before + text).partition(CLOSE)[0]
    last, current = held(thinking), held(before.partition(CLOSE)[0])
    part = "answer" if CLOSE in before else "thinking"
    tokens: list[Token] = []
    previous = ("", "")
    for piece in split(text):
        word = piece.strip()
        if part == "thinking" and previous == (" answer", " is"):
            current = word
        kind = {OPEN: "open", CLOSE: "close"}.get(piece, part)
        if kind == "close":
            part = "answer"
        number = word.lstrip("-").isdigit()
        if number or word in _CUES:
            p = chance.uniform(0.9, 0.995) if current == last else chance.uniform(0.4, 0.75)
        else:
            p = chance.uniform(0.97, 0.9999)
        others: list[str] = []
        if rivals:
            near = [f" {int(word) + i}" for i in (1, -1, 2, -2, 10)] if number else []
            others = [other for other in (*near, *_WORDS) if other != piece][:20]
            if word in _CUES:
                others.insert(0 if current == last else 12, CLOSE)
        shares = zip(others, _SHARES, strict=False)
        tokens.append(
            Token(piece, kind, math.log(p), [(other, math.log((1 - p) * share)) for other, share in shares])
        )
        previous = (previous[1], piece)
    return tokens
