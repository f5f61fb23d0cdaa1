"""What a chat's stream says, told apart: thinking and answer, wherever the server puts the thinking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lynxstop.core.thinking import FAMILIES, Delimiters
from lynxstop.remote.delta import REASONING_FIELDS

DEFAULT = FAMILIES["think"]


class TextPiece(NamedTuple):
    """A piece of text; never empty."""

    thinking: bool
    text: str


class ThinkingSplitter:
    """Splits one stream.

    A server that parses thinking has a field for it. One that does not writes it at the beginning of the
    answer, between delimiters: those are taken out, and what might be the beginning of one is held until it
    is known.

    Parameters
    ----------
    delimiters : Delimiters
    opened : bool
        Whether the prompt has opened the thinking, and the server does not say so.
    """

    def __init__(self, delimiters: Delimiters = DEFAULT, *, opened: bool = False) -> None:
        self._delimiters = delimiters
        self._state = "thinking" if opened else "start"
        self._held = ""

    def read(self, delta: Mapping[str, Any]) -> list[TextPiece]:
        """Return what an event's delta says."""
        found = []
        thinking = next((delta[name] for name in REASONING_FIELDS if delta.get(name)), "")
        if thinking:
            self._state, self._held = "answer", ""
            found.append(TextPiece(True, thinking))
        if content := delta.get("content"):
            if self._state == "answer":
                found.append(TextPiece(False, content))
            else:
                self._held += content
                found += self._settle(self._held)
        return found

    def end(self) -> list[TextPiece]:
        """Return what was still held at the end of the stream."""
        held, self._held = self._held, ""
        return [TextPiece(self._state == "thinking", held)] if held else []

    def _settle(self, text: str) -> list[TextPiece]:
        """Say what of a text is known by now; hold the rest."""
        if self._state == "start":
            start = text.lstrip()
            for mark in self._delimiters.open:
                if start.startswith(mark):
                    self._state, self._held = "thinking", ""
                    return self._settle(start[len(mark) :])
                if mark.startswith(start):
                    return []
            self._state, self._held = "answer", ""
            return [TextPiece(False, text)]
        places = [(text.find(mark), mark) for mark in self._delimiters.close if mark in text]
        if places:
            place, mark = min(places)
            self._state, self._held = "answer", ""
            said = [TextPiece(True, text[:place]), TextPiece(False, text[place + len(mark) :])]
            return [part for part in said if part.text]
        held = max(_overlap(text, mark) for mark in self._delimiters.close)
        self._held = text[len(text) - held :]
        return [TextPiece(True, text[: len(text) - held])] if len(text) > held else []


def _overlap(text: str, mark: str) -> int:
    """Return how long an end of the text is a beginning of the mark."""
    return next((size for size in range(min(len(text), len(mark)), 0, -1) if text.endswith(mark[:size])), 0)
