"""The server as one client's requests reach it: JSON in, events out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from lynxstop.errors import UpstreamError
from lynxstop.remote.http.encoded import encoded
from lynxstop.remote.http.headers import Headers, find, for_call
from lynxstop.remote.http.sse import DONE, EVENT_BYTES, Bursts, EventSplitter, event_data
from lynxstop.remote.http.upstream import Upstream, UpstreamResponse

_LINES = b"application/x-ndjson"
_DOCUMENT_BYTES = 64 * 2**20


class RefusedError(UpstreamError):
    """The server refused a request, or answered in another form.

    Attributes
    ----------
    status : int
    headers : sequence of (bytes, bytes)
    body : bytes
        The whole answer: what the client would have got.
    """

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(f"The server answered with status {status}.", code="upstream_refused", status=status)
        self.status, self.headers, self.body = status, headers, body


class Connection:
    """Requests to a server on a client's behalf; see `lynxstop.remote.server.Server`.

    Parameters
    ----------
    upstream : Upstream
    headers : sequence of (bytes, bytes)
        The client's headers.
    event_bytes : int
        Largest event.
    query : bytes
        Of the client's request.

    Attributes
    ----------
    answered : sequence of (bytes, bytes) or None
        Headers of the first stream, once it has begun.
    """

    def __init__(
        self, upstream: Upstream, headers: Headers = (), event_bytes: int = EVENT_BYTES, query: bytes = b""
    ) -> None:
        self._upstream, self._query = upstream, query
        self.answered: Headers | None = None
        self._headers = for_call(headers)
        self._event_bytes = event_bytes

    async def call(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask for a JSON document: by POST with a body, by GET without.

        Raises
        ------
        RefusedError
            When the server answers with an error.
        UpstreamError
            When it cannot be reached, or answers with no JSON.
        """
        content = None if body is None else encoded(body)
        method = "GET" if body is None else "POST"
        async with self._upstream.stream(method, path, self._headers, content, query=self._query) as response:
            found = await _whole(response)
            if response.status != 200:
                raise RefusedError(response.status, response.headers, found)
        try:
            return orjson.loads(found)
        except orjson.JSONDecodeError:
            raise UpstreamError("The server answered with no JSON.", code="upstream_nonsense") from None

    async def text(self, path: str) -> bytes:
        """Ask for a text by GET; empty when the server has none.

        Raises
        ------
        UpstreamError
            When the server cannot be reached.
        """
        async with self._upstream.stream("GET", path, self._headers) as response:
            found = await _whole(response)
            return found if response.status == 200 else b""

    @asynccontextmanager
    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Bursts]:
        """Stream the data of server-sent events, or lines of JSON, in the bursts in which they come.

        Leaving the context closes the connection.

        Raises
        ------
        RefusedError
            When the server does not answer with a stream of events.
        UpstreamError
            When it cannot be reached, or dies in the middle.
        """
        content = encoded(body)
        async with self._upstream.stream("POST", path, self._headers, content, query=self._query) as response:
            kind = find(response.headers, b"content-type") or b""
            kind = kind.lower()
            if response.status != 200 or not kind.startswith((b"text/event-stream", _LINES)):
                raise RefusedError(response.status, response.headers, await _whole(response))
            if self.answered is None:
                self.answered = response.headers
            yield self._lines(response) if kind.startswith(_LINES) else self._data(response)

    async def _lines(self, response: UpstreamResponse) -> Bursts:
        rest = b""
        async for chunk in response.chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            if lines := [line for line in whole if line.strip()]:
                yield lines
            if len(rest) > self._event_bytes:
                raise UpstreamError("The server streamed a line that is too large.", code="upstream_nonsense")
        if rest.strip():
            yield [rest]

    async def _data(self, response: UpstreamResponse) -> Bursts:
        splitter, found = EventSplitter(self._event_bytes), [b""]
        try:
            async for chunk in response.stream:
                if (arrived := splitter.data(chunk)) or not splitter.rest:
                    found = arrived or found
                    yield arrived
            response.finished = True
        except Exception:
            # After the last event, a lost connection loses nothing.
            if found[-1] != DONE:
                raise
        # What follows the last empty line is an event too, if it is one.
        if splitter.rest.strip() and (data := event_data(splitter.rest.rstrip() + b"\n\n")) is not None:
            yield [data]


async def _whole(response: UpstreamResponse) -> bytes:
    parts, size = [], 0
    async for chunk in response.chunks():
        size += len(chunk)
        if size > _DOCUMENT_BYTES:
            raise UpstreamError("The server's answer is too large.", code="upstream_nonsense")
        parts.append(chunk)
    return b"".join(parts)
