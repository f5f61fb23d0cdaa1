"""Split the text of a chat's stream into thinking and answer, wherever the server puts the thinking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lynxstop.core.thinking import FAMILIES, Delimiters
from lynxstop.remote.delta import reasoning_field

DEFAULT = FAMILIES["think"]

_TEXTS = ("text", "thinking", "summary", "content")
"""Keys under which a part has its text."""


class TextPiece(NamedTuple):
    """A piece of text; never empty."""

    thinking: bool
    text: str


class ThinkingSplitter:
    """Splits one stream.

    A server with a reasoning parser sends thinking in a field of its own. Without one, thinking is at the
    beginning of the content, between delimiters: these are removed, and text that may be the beginning of a
    delimiter is held until that is known.

    Parameters
    ----------
    delimiters : Delimiters
    opened : bool
        Whether the prompt has opened the thinking, which the stream does not show.
    """

    def __init__(self, delimiters: Delimiters = DEFAULT, *, opened: bool = False) -> None:
        self._delimiters = delimiters
        self._state = "thinking" if opened else "start"
        self._held = ""

    def read(self, delta: Mapping[str, Any]) -> list[TextPiece]:
        """Return the pieces of text of an event's `delta`."""
        found = []
        if thinking := _text(delta.get(reasoning_field(delta) or "reasoning_details")):
            self._state, self._held = "answer", ""
            found.append(TextPiece(True, thinking))
        content = delta.get("content")
        for part in content if isinstance(content, list) else [content]:
            if not (text := _text(part)):
                continue
            if isinstance(part, Mapping) and part.get("type") == "thinking":
                self._state = "answer"
                found.append(TextPiece(True, text))
            elif self._state == "answer":
                found.append(TextPiece(False, text))
            else:
                self._held += text
                found += self._settle(self._held)
        return found

    def end(self) -> list[TextPiece]:
        """Return what was still held at the end of the stream."""
        held, self._held = self._held, ""
        return [TextPiece(self._state == "thinking", held)] if held else []

    def _settle(self, text: str) -> list[TextPiece]:
        """Return what of a text is known by now; hold the rest."""
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
        found = split_at_close(text, self._delimiters.close)
        if found is not None:
            self._state, self._held = "answer", ""
            return [
                TextPiece(thinking, said) for thinking, said in zip((True, False), found, strict=True) if said
            ]
        held = max(_overlap(text, mark) for mark in self._delimiters.close)
        self._held = text[len(text) - held :]
        return [TextPiece(True, text[: len(text) - held])] if len(text) > held else []


def _text(said: Any) -> str:
    """Return the text of a part, or of several, as servers nest them."""
    if isinstance(said, list):
        return "".join(map(_text, said))
    if isinstance(said, Mapping):
        return _text(next((said[name] for name in _TEXTS if said.get(name)), None))
    return said if isinstance(said, str) else ""


def split_at_close(text: str, close: Sequence[str]) -> tuple[str, str] | None:
    """Split a text at the first delimiter that closes thinking; None when it has none."""
    places = [(text.find(mark), mark) for mark in close if mark in text]
    if not places:
        return None
    place, mark = min(places)
    return text[:place], text[place + len(mark) :]


def _overlap(text: str, mark: str) -> int:
    """Return how long an end of the text is a beginning of the mark."""
    return next((size for size in range(min(len(text), len(mark)), 0, -1) if text.endswith(mark[:size])), 0)
