"""Parse one event of a stream, then recognise those that differ only in their text by comparing bytes.

The client's version of a recognised event is put together from pieces of the learnt one. An event that
differs in any other byte does not match, and is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import orjson

from lynxstop.remote.delta import REASONING_FIELDS, Delta, Json
from lynxstop.remote.fast_path.raw_logprobs import BEGIN, EACH, END, LOST

_TEXT = "\u0001"
_IDS = b'"token_ids":['
_DIGITS = b"0123456789"
_FIELDS = frozenset({*REASONING_FIELDS, "content"})


_Match = Callable[[bytes, int, int], re.Match[bytes] | None]


MatchedEvent = tuple[bytes, bytes, int | None, bytes]
"""An event with a single token, taken apart: the event as the client gets it, the text, the token's id in the
server's vocabulary, and its log-probabilities, as `lynxstop.remote.tokens.StreamToken` takes them."""


class EventTemplate:
    """The fixed bytes around the text and the log-probabilities in the events of one stream.

    Attributes
    ----------
    thinking : bool
        Whether the text is in the field for thinking.
    """

    __slots__ = ("_after", "_before", "_head", "_match", "_tail", "thinking")

    def __init__(self) -> None:
        self._match: _Match | None = None
        self.thinking = False

    def learn(self, data: bytes, delta: Delta, shown: Json) -> None:
        """Learn from an event that was parsed.

        Parameters
        ----------
        data : bytes
            The event as the server wrote it.
        delta : Delta
            As it was read.
        shown : dict
            What the client gets of it.
        """
        self._match = None
        plain = delta._replace(thinking="", content="", tokens=()) == Delta() and len(delta.tokens) == 1
        said = shown["choices"][0].get("delta") if plain and shown.get("choices") else None
        if not said or len(said) != 1:
            return
        [(name, text)] = said.items()
        if name not in _FIELDS or not text or text != (delta.thinking or delta.content):
            return
        begin, end = data.find(BEGIN), data.rfind(END)
        head, field, rest = data[: max(begin, 0)].partition(b'"%b":"' % name.encode())
        written, quote, middle = rest.partition(b'"')
        if end < 0 or not quote or b"\\" in written:
            return
        said[name] = _TEXT
        self._before, _, self._after = orjson.dumps(shown).partition(orjson.dumps(_TEXT)[1:-1])
        said[name] = text
        if _IDS in self._after:
            return
        tail, ids, after = data[end + len(END) :].partition(_IDS)
        self._head = head + field
        self._tail = after.lstrip(_DIGITS) if ids else tail
        self._match = _matcher(quote + middle + BEGIN, tail + ids if ids else None)
        self.thinking = bool(delta.thinking)

    def match(self, data: bytes) -> MatchedEvent | None:
        """Return the parts of an event, and the client's version of it; None when it does not match."""
        if self._match is None or not data.startswith(self._head) or not data.endswith(self._tail):
            return None
        found = self._match(data, len(self._head), len(data) - len(self._tail))
        if found is None:
            return None
        written, entry, own, number = found.groups()
        text = _TEXTS.get(written) or _text(written)
        if not text or entry.count(EACH) != 1:
            return None
        known = number or own
        return self._before + written + self._after, text, int(known) if known else None, entry


@lru_cache(256)
def _matcher(middle: bytes, ids: bytes | None) -> _Match:
    """Matches an event between head and tail; groups: the text, the entry, the id in it, the id after it.

    Parameters
    ----------
    middle : bytes
        What is between the text and the entries.
    ids : bytes or None
        What is between the entries and a token's id; None when there is no id.
    """
    text = rb'((?:[^"\\]|\\.)*+)'
    entry = rb'(\{(?:"id":(\d+),)?"token":"\1",.*\}\]\})\]\}'
    number = rb"()" if ids is None else re.escape(ids) + rb"(\d+)"
    return re.compile(text + re.escape(middle) + entry + number, re.DOTALL).fullmatch


_TEXTS: dict[bytes, bytes] = {}
_MOST = 1 << 16


def _text(written: bytes) -> bytes | None:
    """Decode what a JSON string has between its quotation marks; None when it may not be valid."""
    try:
        text = str(orjson.loads(b'"%b"' % written)) if b"\\" in written else written.decode()
    except ValueError:
        return None
    if LOST in text or not (text.isprintable() or b"\\" in written):
        return None
    if len(_TEXTS) >= _MOST:
        _TEXTS.clear()
    found = _TEXTS[written] = text.encode()
    return found
