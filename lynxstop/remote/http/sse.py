"""Server-sent events as bytes: split a stream into events, find the data of one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import orjson

from lynxstop.errors import UpstreamError
from lynxstop.remote.http.form import MARK

DONE = b"[DONE]"
"""Data of the event that ends a stream of OpenAI's protocol."""

Bursts = AsyncIterator[list[bytes]]
"""Data of a stream's events, as they arrived together; an empty list only says that it is alive."""

EVENT_BYTES = 16 * 2**20
"""Default limit of one event's size."""

# A line ends with CRLF, LF or CR, and an event with an empty line. A CR at the end of what has arrived
# may be half of a CRLF, so the last line end of an event is not a CR with nothing after it.
_END = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))(?:\r\n|\n|\r(?=[^\n]))")
_DATA = b"data: "
_BETWEEN = b"\n\n" + _DATA
_PLAIN = (b"", b"message")
_LINES = re.compile(rb"\r\n|\n|\r")


class EventSplitter:
    """Splits a byte stream into whole events, each with the empty line that ends it; no byte is changed.

    Parameters
    ----------
    limit : int
        Bytes that one event may have.

    Notes
    -----
    An event that ends with a lone CR is returned with the next byte: only that shows that no LF follows.
    Joined with `rest`, the events are the stream.
    """

    __slots__ = ("_buffer", "_limit", "_seen")

    def __init__(self, limit: int = EVENT_BYTES) -> None:
        self._buffer = bytearray()
        self._seen = 0
        self._limit = limit

    @property
    def rest(self) -> bytes:
        """The part of the next event that has arrived."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that are whole with `data`.

        Raises
        ------
        UpstreamError
            When an event grows past the limit.
        """
        buffer = self._buffer
        if not buffer and _alone(data):
            return [data]
        buffer += data
        events, start, search = [], 0, max(0, self._seen - 3)
        if b"\r" in buffer:
            for found in _END.finditer(buffer, search):
                events.append(bytes(buffer[start : found.end()]))
                start = found.end()
        else:
            # Lines mostly end with LF alone: that needs no pattern.
            while (end := buffer.find(b"\n\n", max(start, search))) >= 0:
                events.append(bytes(buffer[start : end + 2]))
                start = end + 2
        # The search holds on to the buffer while it lives: a new one is made.
        self._buffer = buffer = bytearray(memoryview(buffer)[start:]) if start else buffer
        self._seen = len(buffer)
        self._limited()
        return events

    def data(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that are whole with a chunk; see `event_data`.

        Raises
        ------
        UpstreamError
            When an event grows past the limit.
        """
        # Most often, a chunk is one event of one line; else it is several of them, the last perhaps a part.
        if b"\r" not in chunk:
            buffer = self._buffer
            if not buffer and chunk.startswith(_DATA) and chunk.find(b"\n") == len(chunk) - 2:
                if chunk.endswith(b"\n\n"):
                    return [chunk[len(_DATA) : -2]]
            elif (end := chunk.rfind(b"\n\n")) >= 0 and b"\r" not in buffer:
                whole = bytes(buffer) + chunk[:end] if buffer else chunk[:end]
                found = whole[len(_DATA) :].split(_BETWEEN)
                if whole.startswith(_DATA) and whole.count(b"\n") == 2 * len(found) - 2:
                    self._buffer = bytearray(memoryview(chunk)[end + 2 :])
                    self._seen = len(self._buffer)
                    self._limited()
                    return found
        return [data for event in self.feed(chunk) if (data := event_data(event)) is not None]

    def _limited(self) -> None:
        if len(self._buffer) > self._limit:
            raise UpstreamError(
                f"The server sent an event of more than {self._limit} bytes.",
                hint="Raise limits.event_bytes if events of this size are meant.",
            )


def event_data(event: bytes) -> bytes | None:
    """Return the joined data lines of an event, or None when it has none: a comment or a ping.

    Data of an `event: error` are under the key `error`, whatever the server put there. An event of another
    name whose data are not an object is a ping too.
    """
    if event.startswith(_DATA) and _alone(event):
        return event[len(_DATA) : -2]
    found, name = None, b""
    for line in _LINES.split(event.removeprefix(MARK)):
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
        elif line == b"data":
            value = b""
        else:
            name = line[6:].strip() if line.startswith(b"event:") else name
            continue
        found = value if found is None else found + b"\n" + value
    return found if found is None or name in _PLAIN else _named(name, found)


def _named(name: bytes, data: bytes) -> bytes | None:
    if name == b"error":
        return _as_error(data)
    return data if data.lstrip().startswith(b"{") or data.strip() == DONE else None


def _as_error(data: bytes) -> bytes:
    """Return the data of an `event: error` as an object with the key `error`."""
    try:
        said = orjson.loads(data)
    except orjson.JSONDecodeError:
        said = data.decode(errors="replace")
    return data if isinstance(said, dict) and "error" in said else orjson.dumps({"error": said})


def _alone(data: bytes) -> bool:
    """Whether it is a whole event of one line; the rest of its bytes is looked at only once."""
    return data.find(b"\n") == len(data) - 2 and data.endswith(b"\n\n") and b"\r" not in data
