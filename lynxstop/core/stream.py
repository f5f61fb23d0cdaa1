"""The automata over a stream of texts, for servers that stream text without token ids.

Every distinct text that a server streams as one token gets a number of its own, used as its token id; the
result of reading its bytes is cached. Two reserved numbers stand for events without text: a thinking block
opened, or closed, because the server switched from one field of its messages to the other.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.automaton import SymbolTable
from lynxstop.core.characters import SPACE, WORD, is_word, variants
from lynxstop.core.cues import CueSet, Patterns
from lynxstop.core.points import is_boundary
from lynxstop.core.surface import INERT
from lynxstop.core.thinking import Delimiters, Mark, mark_table
from lynxstop.core.watch import Reader, WatchState
from lynxstop.errors import ConfigError

OPEN, CLOSE = 0, 1
"""Numbers of the two events without text: the server switched to, or away from, the field of thinking."""

_SYMBOLS = INERT + 3
_MOST = 1 << 20
_TAIL = 256
_MEMO = 1 << 16


class TextVocabulary:
    """Texts and their numbers.

    A text's number is computed from its bytes, so that all processes agree on it and signals that compare
    tokens replay the same. One instance is shared by all streams of a watch.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._texts: dict[int, bytes] = {OPEN: b"", CLOSE: b""}

    def number(self, text: bytes) -> int:
        """Return the number of a text, below 2**31.

        Raises
        ------
        ConfigError
            When there are more distinct texts than a vocabulary can have: the server does not stream token
            by token.
        """
        found = self._numbers.get(text)
        if found is None:
            if len(self._numbers) >= _MOST:
                raise ConfigError(
                    "The server streams pieces of text that are not tokens.",
                    hint="Ask it for log-probabilities, token by token.",
                )
            found = zlib.crc32(text) & 0x7FFFFFFF
            while found in self._texts:
                found = (found + 1) & 0x7FFFFFFF
            self._numbers[text] = found
            self._texts[found] = text
        return found

    def text(self, number: int) -> bytes:
        """Return the text of a number; empty for `OPEN` and `CLOSE`."""
        return self._texts[number]

    def symbols(self, number: int) -> Sequence[int]:
        """Return the symbols of a number's text; see `lynxstop.core.surface`."""
        return (INERT + 1 + number,) if number <= CLOSE else self._texts[number] or (INERT,)


class StreamAutomaton:
    """An automaton that reads texts symbol by symbol: the counterpart of `TokenAutomaton`."""

    __slots__ = ("_classes", "_final", "_first", "_later", "_next", "_vocabulary")

    def __init__(self, table: SymbolTable, final: NDArray[np.uint8], vocabulary: TextVocabulary) -> None:
        self._classes: list[int] = table.classes.tolist()
        self._next: list[list[int]] = table.next.tolist()
        self._first: list[list[int]] = table.first.tolist()
        self._later: list[list[int]] = table.later.tolist()
        self._final: list[int] = final.tolist()
        self._vocabulary = vocabulary

    def step(self, state: int, token: int) -> tuple[int, int]:
        """Next state and flags after one text."""
        flags, output = 0, self._first
        for symbol in self._vocabulary.symbols(token):
            column = self._classes[symbol]
            flags |= output[state][column]
            state = self._next[state][column]
            output = self._later
        return state, flags | self._final[state]


class StreamCues:
    """Cue words over texts: the counterpart of `lynxstop.core.cues.CueAutomaton`.

    Parameters
    ----------
    cues : CueSet
    vocabulary : TextVocabulary
    """

    def __init__(self, cues: CueSet, vocabulary: TextVocabulary) -> None:
        patterns = Patterns(cues)
        states, table = patterns.table(_SYMBOLS)
        self.start = 0
        self.step = StreamAutomaton(table, patterns.pending(states), vocabulary).step
        self._settled = [int(state.word) for state in states]
        self._open = [bool(state.nodes) or state.breaks > 0 for state in states]

    def settle(self, state: int) -> int:
        """Forget partial matches and a pending cue."""
        return self._settled[state]

    def partial(self, state: int) -> bool:
        """Whether the text so far may end inside a cue, or on one that the next token has to confirm."""
        return self._open[state]


class StreamThinking:
    """Thinking blocks over texts and the two events: the counterpart of `ThinkingAutomaton`."""

    def __init__(self, delimiters: Delimiters, vocabulary: TextVocabulary) -> None:
        marks = [Mark(tuple(text.encode()), True) for text in delimiters.open]
        marks += [Mark(tuple(text.encode()), False) for text in delimiters.close]
        marks += [Mark((INERT + 1 + OPEN,), True), Mark((INERT + 1 + CLOSE,), False)]
        within, table = mark_table(marks, _SYMBOLS)
        self.start = 0
        self.opened = 1
        self._within: list[bool] = within.tolist()
        self._automaton = StreamAutomaton(table, np.zeros(len(within), np.uint8), vocabulary)

    def step(self, state: int, token: int) -> int:
        """Advance by one text."""
        return self._automaton.step(state, token)[0]

    def inside(self, state: int) -> bool:
        """Say whether a block is open."""
        return self._within[state]


class StreamBoundaries:
    """The texts that end a sentence, a clause or a line."""

    def __init__(self, vocabulary: TextVocabulary) -> None:
        self._vocabulary = vocabulary
        self._known: dict[int, bool] = {}

    def __contains__(self, token: object) -> bool:
        assert isinstance(token, int)
        if (known := self._known.get(token)) is None:
            known = self._known[token] = is_boundary(self._vocabulary.symbols(token))
        return known


class StreamWatch(Reader):
    """A watch over streamed texts.

    Parameters
    ----------
    cues : CueSet
    delimiters : Delimiters
        As the server writes them, if it writes them at all.

    Attributes
    ----------
    cue_set : CueSet
    delimiters : Delimiters
    vocabulary : TextVocabulary
        Numbers of the texts that a session reads.
    passing : dict
        Cache of `passes`.
    """

    def __init__(self, cues: CueSet, delimiters: Delimiters) -> None:
        self.cue_set = cues
        self.delimiters = delimiters
        self.vocabulary = TextVocabulary()
        self._cues = StreamCues(cues, self.vocabulary)
        self._patterns = tuple(_patterns(cues))
        self.thinking = StreamThinking(delimiters, self.vocabulary)
        self.cues = self._cues
        self.boundaries = StreamBoundaries(self.vocabulary)
        self._memo = {}
        self.passing: dict[tuple[WatchState, bytes], WatchState | None] = {}

    def passes(self, state: WatchState, text: bytes) -> WatchState | None:
        """Check that a text continues the thinking and holds no decision point: no cue, no beginning of one.

        Returns
        -------
        WatchState or None
            The state after it; None when it may hold a decision point, or ends the thinking.

        Raises
        ------
        ConfigError
            When there are more distinct texts than a vocabulary can have.
        """
        key = state, text
        if key not in self.passing:
            if len(self.passing) >= _MEMO:
                self.passing.clear()
            seen = self.read(state, self.vocabulary.number(text))
            shows = seen.confirmed or seen.here or seen.pending or self.open_cue(seen.state.cue)
            self.passing[key] = seen.state if seen.thinking and not shows else None
        return self.passing[key]

    def open_cue(self, state: int) -> bool:
        """Whether a partial or unconfirmed cue may be open in this state of the cue automaton."""
        return self._cues.partial(state)

    def cue_start(self, texts: Sequence[bytes], index: int) -> tuple[int, int]:
        """Find where the cue begins that ends in the text at `index`.

        Returns
        -------
        (text, offset)
            Index of a text, and the number of its bytes before the cue. Blanks before the cue in the same
            text belong to the cue.
        """
        first, size = index, len(texts[index])
        while first > 0 and size < _TAIL:
            first -= 1
            size += len(texts[first])
        tail = b"".join(texts[first : index + 1])
        floor = len(tail) - len(texts[index])
        shown = tail.decode("latin-1")
        starts = [
            match.start(1)
            for pattern in self._patterns
            for match in pattern.finditer(shown)
            if match.end(1) > floor
        ]
        place = min(starts, default=floor)
        for number in range(first, index + 1):
            length = len(texts[number])
            if place < length:
                kept = texts[number][:place]
                return number, len(kept) if kept.strip() else 0
            place -= length
        return index, 0


def _patterns(cues: CueSet) -> list[re.Pattern[str]]:
    """Regular expressions of cues over bytes decoded as latin-1, to locate a cue that was already found."""
    found = []
    for word in cues.words:
        parts = (
            "".join(f"(?:{'|'.join(re.escape(_shown(form)) for form in variants(c))})" for c in part)
            for part in word.split()
        )
        body = f"[{SPACE}]+".join(parts)
        left = f"(?<![{WORD[:-3]}])" if is_word(word[0]) else ""
        found.append(re.compile(f"{left}(?=({body}))"))
    if cues.paragraph:
        found.append(re.compile(r"(?=(\n[ \t\r]*\n))"))
    return found


def _shown(text: str) -> str:
    return text.encode().decode("latin-1")
