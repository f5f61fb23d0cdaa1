"""Server-sent events as bytes: split a stream into events, find the data of one."""

from __future__ import annotations

import re

from lynxstop.errors import UpstreamError

EVENT_BYTES = 16 * 2**20
"""Default limit of one event's size."""

# A line ends with CRLF, LF or CR, and an event with an empty line. A CR at the end of what has arrived
# may be half of a CRLF, so that the last line end of an event is not a CR with nothing behind it.
_END = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))(?:\r\n|\n|\r(?=[^\n]))")
_MARK = b"\xef\xbb\xbf"
_LINES = re.compile(rb"\r\n|\n|\r")


class EventSplitter:
    """Splits a byte stream into whole events, each with the empty line that ends it; no byte is changed.

    Parameters
    ----------
    limit : int
        Bytes that one event may have.

    Notes
    -----
    An event that ends with a lone CR is given out with the next byte: only that shows that no LF follows.
    Joined with `rest`, the events are the stream.
    """

    __slots__ = ("_buffer", "_limit", "_seen")

    def __init__(self, limit: int = EVENT_BYTES) -> None:
        self._buffer = bytearray()
        self._seen = 0
        self._limit = limit

    @property
    def rest(self) -> bytes:
        """What has arrived of an event that is not whole yet."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that are whole with `data`.

        Raises
        ------
        UpstreamError
            When an event grows past the limit.
        """
        if not self._buffer and data.find(b"\n\n") == len(data) - 2 and len(data) > 2 and b"\r" not in data:
            return [data]
        buffer = self._buffer
        buffer += data
        events, start = [], 0
        for found in _END.finditer(buffer, max(0, self._seen - 3)):
            events.append(bytes(buffer[start : found.end()]))
            start = found.end()
        # The search holds on to the buffer while it lives: a new one is made.
        self._buffer = buffer = bytearray(memoryview(buffer)[start:]) if start else buffer
        self._seen = len(buffer)
        if len(buffer) > self._limit:
            raise UpstreamError(
                f"The server sent an event of more than {self._limit} bytes.",
                hint="Raise limits.event_bytes if events of this size are meant.",
            )
        return events


def event_data(event: bytes) -> bytes | None:
    """Return the joined data lines of an event, or None when it has none: a comment or a ping."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    found = None
    for line in _LINES.split(event.removeprefix(_MARK)):
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
        elif line == b"data":
            value = b""
        else:
            continue
        found = value if found is None else found + b"\n" + value
    return found
