"""The HTTP client of the upstream server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx

from lynxstop.extras import need
from lynxstop.remote.http.headers import Headers, find, without
from lynxstop.remote.http.transport import failure, hung_up, make_transport

if TYPE_CHECKING:
    from lynxstop.remote.http.config import ConnectionConfig

LOST = "lost"
"""Message of the cancellation of a task that lost a race."""

_CLOSING = b"llama.cpp"
"""Server that silently closes the connection after each stream, so that the next request would fail.

Its connections are not reused, nor are those of any server whose first answer has not arrived yet.
"""

_KEYS = (b"authorization", b"x-api-key")


class _Address(httpx.URL):
    """An address whose path and query go out as they came: httpx would resolve dots and quote again."""

    def __init__(self, base: httpx.URL, target: bytes) -> None:
        super().__init__(base)
        self._target = target

    @property
    def raw_path(self) -> bytes:
        return self._target

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc.decode()}{self._target.decode('latin-1')}"


class UpstreamResponse:
    """An answer of the server while it arrives.

    Attributes
    ----------
    status : int
        HTTP status.
    headers : sequence of (bytes, bytes)
        Raw headers, as they arrived.
    stream : async iterable of bytes
        The body as it arrives, in its content coding.
    finished : bool
        True once the body has been read to its end; code that reads `stream` directly sets it.
    """

    __slots__ = ("finished", "headers", "status", "stream")

    def __init__(self, response: httpx.Response) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self.stream = response.stream
        self.status = response.status_code
        self.headers: Headers = response.headers.raw
        self.finished = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, in its content coding."""
        async for chunk in self.stream:
            yield chunk
        self.finished = True

    async def read(self) -> bytes:
        """Return the whole body."""
        return b"".join([chunk async for chunk in self.chunks()])


class Upstream:
    """The upstream server.

    Parameters
    ----------
    config : ConnectionConfig
        Its address, timeouts and key.
    hide_keys : bool
        Keep the client's keys from the server: they are those of the proxy.
    on_abort : callable, optional
        Called with "client_gone", "lost" (a race) or "closed" for every answer that is closed before its end.

    Raises
    ------
    MissingExtraError
        When the configured transport is not installed.
    """

    def __init__(
        self,
        config: ConnectionConfig,
        *,
        hide_keys: bool = False,
        on_abort: Callable[[str], None] = lambda cause: None,
    ) -> None:
        if config.transport == "aiohttp":
            # Now, and not in answer to every request.
            need("httpx_aiohttp", "fast")
        self.config = config
        self.on_abort = on_abort
        self._address = httpx.URL(config.url)
        self._prefix = self._address.raw_path.rstrip(b"/")
        self._hide_keys = hide_keys or config.api_key is not None
        self._own_key: Headers = []
        if config.api_key is not None:
            self._own_key = [(b"authorization", b"Bearer " + config.api_key.get_secret_value().encode())]
        timeout = httpx.Timeout(config.read_seconds, connect=config.connect_seconds, pool=None)
        self._extensions = {"timeout": timeout.as_dict()}
        # Transports are used without httpx's client, which would look for redirects, cookies and more.
        self._transport: httpx.AsyncBaseTransport | None = None
        self._fresh: httpx.AsyncBaseTransport | None = None
        self._reuses = False

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str | bytes,
        headers: Headers = (),
        content: bytes | AsyncIterator[bytes] | None = None,
        *,
        query: bytes = b"",
    ) -> AsyncIterator[UpstreamResponse]:
        """Send a request and yield its response while it arrives; leaving the block closes the connection.

        Parameters
        ----------
        method, path, query
            Of the request line; the path is appended to that of the configured address.
        headers : sequence of (bytes, bytes)
            Sent as given, except keys: see `headers.for_relay` and `headers.for_call`.
        content : bytes or async iterator of bytes, optional
            The body.

        Raises
        ------
        UpstreamError
            When the server cannot be reached (502), dies (502) or is silent for too long (504), inside the
            block too.
        """
        raw = path.encode() if isinstance(path, str) else path
        target = self._prefix + raw + (b"?" + query if query else b"")
        if self._hide_keys:
            headers = [*without(headers, _KEYS), *self._own_key]
        if not self._reuses:
            headers = [*headers, (b"connection", b"close")]
        response = None
        finished = True
        try:
            response = await self._send(method, target, list(headers), content)
            answer = UpstreamResponse(response)
            self._reuses = find(answer.headers, b"server") != _CLOSING
            try:
                yield answer
            finally:
                finished = answer.finished
        except Exception as error:
            known = failure(error)
            if known is None:
                raise
            finished = True
            raise known from None
        except (asyncio.CancelledError, GeneratorExit) as error:
            if not finished or response is None:
                self.on_abort(LOST if error.args == (LOST,) else "client_gone")
            finished = True
            raise
        finally:
            if response is not None:
                await response.aclose()
            if not finished:
                self.on_abort("closed")

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in (self._transport, self._fresh):
            if transport is not None:
                await transport.aclose()
        self._transport = self._fresh = None

    def _with_body(self, method: str, headers: Headers, body: bytes) -> httpx.Request:
        """Make a request as httpx does, which takes three times as long to add the same two headers."""
        sized = find(headers, b"content-length") is not None
        length = [] if sized else [(b"Content-Length", str(len(body)).encode())]
        made = httpx.Request(
            method,
            self._address,
            headers=[(b"Host", self._address.netloc), *headers, *length],
            stream=httpx.ByteStream(body),
            extensions=self._extensions,
        )
        made.read()
        return made

    async def _send(
        self, method: str, target: bytes, headers: Headers, content: bytes | AsyncIterator[bytes] | None
    ) -> httpx.Response:
        """Send a request; once more on a connection of its own when the server hung up before it answered.

        A server may close an idle connection at the moment when it is used again; a busy one does so late.
        """

        def request() -> httpx.Request:
            if isinstance(content, bytes):
                made = self._with_body(method, headers, content)
            else:
                made = httpx.Request(
                    method, self._address, headers=list(headers), content=content, extensions=self._extensions
                )
            made.url = _Address(self._address, target)
            return made

        if self._transport is None:
            self._transport = make_transport(self.config.transport)
        try:
            return await self._transport.handle_async_request(request())
        except Exception as error:
            if not (content is None or isinstance(content, bytes)) or not hung_up(error):
                raise
        if self._fresh is None:
            self._fresh = make_transport("httpx", reuse=False)
        return await self._fresh.handle_async_request(request())
