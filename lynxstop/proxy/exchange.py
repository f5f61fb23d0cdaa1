"""One request and its answer, as handlers see them."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from lynxstop.errors import RequestError
from lynxstop.remote.http.coding import PACKED, READABLE, coding_of, unpacker
from lynxstop.remote.http.headers import Headers, find

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

AHEAD = 256 * 2**10
"""Bytes of a request's body that are read before anybody asks for them."""


class NotJsonError(RequestError):
    """The request's body is not JSON."""

    def __init__(self, place: int) -> None:
        super().__init__("The request's body is not valid JSON.", hint=f"Look at byte {place}.")


class Incoming:
    """A request.

    Attributes
    ----------
    id : str
        Ours, for the logs.
    method, path : str
        As in the request line; the path is decoded.
    raw_path, query : bytes
        As they arrived.
    headers : sequence of (bytes, bytes)
        Raw headers, names in lower case.
    body : bytes
        The whole body, as it arrived; empty until `read`, which is done before a handler of its own runs.
    notes : dict
        Counts and names that a handler adds to the log line and the span. Never content.
    """

    def __init__(self, scope: Message, receive: Receive) -> None:
        self.id = uuid.uuid4().hex
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: bytes = (scope.get("raw_path") or self.path.encode()).partition(b"?")[0]
        self.query: bytes = scope["query_string"]
        self.headers: Headers = list(scope["headers"])
        self.body = b""
        self.notes: dict[str, str | int | float | bool | None] = {}
        self.arrived = time.monotonic()
        self._receive = receive
        self._pending: list[bytes] = []
        self._size = 0
        self._whole = False
        self._read = False
        # Of headers that repeat, the first counts.
        self._first = dict(reversed(self.headers))
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None."""
        value = self._first.get(name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    @property
    def readable(self) -> bool:
        """Whether the body's coding is one that we can unpack."""
        return self._coding in READABLE

    @property
    def _coding(self) -> str:
        return coding_of(self.header("content-encoding"))

    def json(self, limit: int = 256 * 2**20) -> Any:
        """Parse the body, unpacked if it is compressed; UTF-16, UTF-32 and a byte order mark are understood.

        Raises
        ------
        RequestError
            When the body is not JSON (400), its coding is unknown (415) or it unpacks to more than `limit`
            bytes (413).
        """
        import orjson

        content = self._unpacked(limit)
        written = json.detect_encoding(content)
        try:
            return orjson.loads(content if written == "utf-8" else content.decode(written))
        except (orjson.JSONDecodeError, UnicodeDecodeError) as error:
            place = error.start if isinstance(error, UnicodeDecodeError) else error.pos
            raise NotJsonError(place) from None

    def object(self) -> dict[str, Any] | None:
        """Return the body's JSON object; None when it is something else, which the server is to judge.

        Raises
        ------
        RequestError
            As `json` does, except when the body is not JSON.
        """
        try:
            found = self.json()
        except NotJsonError:
            return None
        return found if isinstance(found, dict) else None

    async def read(self, limit: int) -> bytes:
        """Read the whole body into memory.

        Raises
        ------
        RequestError
            When it has more than `limit` bytes (413).
        """
        if self._read:
            return self.body
        declared = find(self.headers, b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        parts, size = [], 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            parts.append(chunk)
        self.body, self._read = b"".join(parts), True
        return self.body

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the body as it arrives; after `read`, in one piece."""
        if self._read:
            yield self.body
            return
        while True:
            pending, self._pending, self._size = self._pending, [], 0
            self._room.set()
            for chunk in pending:
                yield chunk
            if not self._pending:
                if self._whole:
                    return
                self._news.clear()
                await self._news.wait()

    @property
    def arrived_whole(self) -> bool:
        """Whether `read` waits for nothing more."""
        return self._whole

    @property
    def has_body(self) -> bool:
        """True when the request announces a body."""
        length = find(self.headers, b"content-length")
        return length not in (None, b"0") or find(self.headers, b"transfer-encoding") is not None

    async def listen(self) -> None:
        """Take in the body; return when the client has gone. Run beside the handler, by the app."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            chunk = message.get("body", b"")
            if chunk:
                self._pending.append(chunk)
                self._size += len(chunk)
            self._whole = not message.get("more_body", False)
            self._news.set()
            while self._size > AHEAD:
                self._room.clear()
                await self._room.wait()

    def _unpacked(self, limit: int) -> bytes:
        coding = self._coding
        if coding == "identity":
            return self.body
        if coding not in PACKED:
            raise RequestError(
                "The request's content coding is not supported.",
                status=415,
                hint="Use gzip, deflate or none.",
            )
        current = unpacker(coding, self.body)
        try:
            unpacked: bytes = current.decompress(self.body, limit + 1)
        except zlib.error:
            raise RequestError("The request's body does not unpack as its content coding says.") from None
        if len(unpacked) > limit:
            raise _too_large(limit)
        if not current.eof:
            raise RequestError("The request's compressed body is cut short.")
        return unpacked


class Reply:
    """The answer to a request.

    Parameters
    ----------
    send : callable
    route : str
        Path of the request, by which errors have their shape.

    Attributes
    ----------
    status : int
        0 before `start`.
    started, ended : bool
        Whether the status has gone out, and the last byte.
    at_event : bool
        True when the answer is a stream of events and what has gone out ends with a whole one.
    size, chunks : int
        Bytes and pieces of the body so far.
    first_at : float or None
        When the first byte of the body went out, by `time.monotonic`.
    """

    __slots__ = ("_events", "_send", "_tail", "chunks", "ended", "first_at", "route", "size", "status")

    def __init__(self, send: Send, route: str = "") -> None:
        self._send = send
        self.route = route
        self._events = False
        self._tail = b"\n\n"
        self.status = 0
        self.ended = False
        self.size = self.chunks = 0
        self.first_at: float | None = None

    @property
    def started(self) -> bool:
        """Whether the status has gone out."""
        return self.status != 0

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream of events."""
        return self._events

    @property
    def at_event(self) -> bool:
        """True when the answer is a stream of events and what has gone out ends with a whole one."""
        return self._events and self._tail[-4:].endswith((b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r\n"))

    async def start(self, status: int, headers: Headers) -> None:
        """Send the status and the headers."""
        kind = find(headers, b"content-type") or b""
        coding = find(headers, b"content-encoding") or b"identity"
        self._events = kind.lower().startswith(b"text/event-stream") and coding == b"identity"
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, chunk: bytes) -> None:
        """Send a piece of the body; waits while the client reads more slowly than we write."""
        if chunk:
            self._count(chunk)
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes = b"") -> None:
        """End the answer, with a last piece if given."""
        if chunk:
            self._count(chunk)
        self.ended = True
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    def _count(self, chunk: bytes) -> None:
        if self.first_at is None:
            self.first_at = time.monotonic()
        self.chunks += 1
        self.size += len(chunk)
        self._tail = chunk if len(chunk) >= 4 else self._tail[-4:] + chunk


Handler = Callable[[Incoming, Reply], Awaitable[None]]
"""Answers a request. Its task is cancelled the moment the client disconnects."""


def _too_large(limit: int) -> RequestError:
    return RequestError(
        f"The request's body has more than {limit} bytes.",
        status=413,
        code="request_too_large",
        hint="Send less, or raise limits.body_bytes.",
    )
