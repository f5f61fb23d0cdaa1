"""The server as one client's requests reach it: JSON in, events out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

from lynxstop.errors import UpstreamError
from lynxstop.remote.http.coding import READABLE, coding_of, plain, unpacked
from lynxstop.remote.http.encoded import encoded
from lynxstop.remote.http.form import Form, form_of, recognised
from lynxstop.remote.http.headers import Headers, find, for_call, without
from lynxstop.remote.http.sse import DONE, EVENT_BYTES, Bursts, EventSplitter, event_data
from lynxstop.remote.http.upstream import Upstream, UpstreamResponse
from lynxstop.remote.server_error import error_in_body

LINGER_SECONDS = 0.25
"""How long a server may keep a connection open after the event that ends its stream."""

_ANSWERED = range(200, 300)
_DOCUMENT_BYTES = 64 * 2**20
_WORDS = 500
"""Longest part of a server's own message in ours."""
_NAME = 40


class RefusedError(UpstreamError):
    """The server refused a request, or answered in another form.

    Attributes
    ----------
    status : int
    headers : sequence of (bytes, bytes)
    body : bytes
        The whole answer: what the client would have got.
    said : dict or None
        The error in it; see `lynxstop.remote.server_error.error_in`.
    """

    said: dict[str, Any] | None

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body
        self.said = None if status == 200 else error_in_body(_readable(headers, body))
        if status == 200:
            coding = coding_of(find(headers, b"content-encoding"))
            form = (
                "with something other than a stream of events"
                if coding in READABLE
                else f"in the coding {coding[:_NAME]}"
            )
            super().__init__(
                f"The server answered {form}.",
                code="upstream_form",
                hint=None if coding in READABLE else "Switch its compression off; we ask for none.",
            )
            return
        words = f": {self.said['message'][:_WORDS]}" if self.said else "."
        super().__init__(
            f"The server answered with status {status}{words}", code="upstream_refused", status=status
        )


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
            When it cannot be reached, or does not answer with JSON.
        """
        content = None if body is None else encoded(body)
        method = "GET" if body is None else "POST"
        async with self._upstream.stream(method, path, self._headers, content, query=self._query) as response:
            found = await _whole(response)
            if response.status not in _ANSWERED:
                raise RefusedError(response.status, response.headers, found)
        try:
            return orjson.loads(_readable(response.headers, found))
        except orjson.JSONDecodeError:
            raise UpstreamError("The server did not answer with JSON.", code="upstream_nonsense") from None

    async def text(self, path: str) -> bytes:
        """Ask for a text by GET; empty when the server has none.

        Raises
        ------
        UpstreamError
            When the server cannot be reached.
        """
        async with self._upstream.stream("GET", path, self._headers) as response:
            found = await _whole(response)
            return _readable(response.headers, found) if response.status in _ANSWERED else b""

    @asynccontextmanager
    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Bursts]:
        """Stream the data of server-sent events, or lines of JSON, in the bursts in which they come.

        Leaving the context closes the connection.

        What is packed is unpacked. Where the content type does not tell, how the body begins does.

        Raises
        ------
        RefusedError
            When the server does not answer with a stream of events; with status 200, when it answers with
            something else.
        UpstreamError
            When it cannot be reached, or dies in the middle.
        """
        content = encoded(body)
        async with self._upstream.stream("POST", path, self._headers, content, query=self._query) as response:
            coding = coding_of(find(response.headers, b"content-encoding"))
            if response.status not in _ANSWERED:
                raise RefusedError(response.status, response.headers, await _whole(response))
            if coding not in READABLE:
                # Left unread, so that the server does not generate an answer that nobody can read.
                raise RefusedError(200, response.headers, b"")
            chunks = response.stream if coding == "identity" else unpacked(response.stream, coding)
            form = form_of(find(response.headers, b"content-type") or b"")
            if form is not Form.LINES:
                form, chunks = await recognised(chunks, self._event_bytes, form)
            if form is Form.DOCUMENT:
                found = await _joined(chunks)
                response.finished = True
                raise RefusedError(200, without(response.headers, {b"content-encoding"}), found)
            if self.answered is None:
                self.answered = response.headers
            yield self._lines(response, chunks) if form is Form.LINES else self._data(response, chunks)

    async def _lines(self, response: UpstreamResponse, chunks: AsyncIterable[bytes]) -> Bursts:
        rest = b""
        async for chunk in chunks:
            *whole, rest = (rest + chunk).split(b"\n")
            if lines := [line for line in whole if line.strip()]:
                yield lines
            if len(rest) > self._event_bytes:
                raise UpstreamError("The server streamed a line that is too large.", code="upstream_nonsense")
        response.finished = True
        if rest.strip():
            yield [rest]

    async def _data(self, response: UpstreamResponse, chunks: AsyncIterable[bytes]) -> Bursts:
        splitter, found, coming = EventSplitter(self._event_bytes), [b""], aiter(chunks)
        try:
            async for chunk in coming:
                if (arrived := splitter.data(chunk)) or not splitter.rest:
                    found = arrived or found
                    yield arrived
                    if found[-1].strip() == DONE:
                        await _drained(coming)
                        break
            response.finished = True
        except Exception:
            # After the last event, a lost connection loses nothing.
            if found[-1].strip() != DONE:
                raise
        # What follows the last empty line is an event too, if it is one.
        if splitter.rest.strip() and (data := event_data(splitter.rest.rstrip() + b"\n\n")) is not None:
            yield [data]


def _readable(headers: Headers, body: bytes) -> bytes:
    return plain(body, coding_of(find(headers, b"content-encoding")))


async def _whole(response: UpstreamResponse) -> bytes:
    found = await _joined(response.stream)
    response.finished = True
    return found


async def _drained(chunks: AsyncIterator[bytes]) -> None:
    """Read what follows the end of an answer, so that its connection can be used again; not for long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            async for _ in chunks:
                pass


async def _joined(chunks: AsyncIterable[bytes]) -> bytes:
    parts, size = [], 0
    async for chunk in chunks:
        size += len(chunk)
        if size > _DOCUMENT_BYTES:
            raise UpstreamError("The server's answer is too large.", code="upstream_nonsense")
        parts.append(chunk)
    return b"".join(parts)
