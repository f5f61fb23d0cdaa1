"""How requests travel: httpx itself, or aiohttp under it, which takes half the processor time per event."""

from __future__ import annotations

import ssl
from importlib.util import find_spec
from typing import Any

import httpx

from lynxstop.errors import UpstreamError
from lynxstop.extras import need

KEEPALIVE_SECONDS = 3.0
"""Idle connections are dropped before servers do (uvicorn: 5 s), so that no request meets a dead one."""

LINE_BYTES = 2**16
"""Longest line of a server's headers."""

_HANGING_UP = ("ServerDisconnectedError", "ClientOSError")
_CONNECTING = ("ClientConnectorError", "ConnectionTimeoutError")


def make_transport(name: str, *, reuse: bool = True) -> httpx.AsyncBaseTransport:
    """Make a transport without limits: the proxy has its own.

    Parameters
    ----------
    name : str
        "httpx", "aiohttp", or "auto" for aiohttp where it is installed.
    reuse : bool
        Whether httpx keeps connections for later requests.

    Raises
    ------
    MissingExtraError
        When aiohttp is asked for and not installed.
    """
    if name == "aiohttp" or (name == "auto" and find_spec("httpx_aiohttp") is not None):
        adapter: Any = need("httpx_aiohttp", "fast")
        session = _Session()
        transport: httpx.AsyncBaseTransport = adapter.AiohttpTransport(
            client=session, trust_env=False, verify=session.trusted
        )
        transport.aclose = session.close  # type: ignore[method-assign]
        return transport
    limits = httpx.Limits(
        max_connections=None,
        max_keepalive_connections=None if reuse else 0,
        keepalive_expiry=KEEPALIVE_SECONDS,
    )
    return httpx.AsyncHTTPTransport(limits=limits, trust_env=False, verify=trusted())


def trusted() -> ssl.SSLContext:
    """Verify a server of https by the system's authorities, or by those of SSL_CERT_FILE or SSL_CERT_DIR.

    The same for every transport; the default of httpx is certifi.
    """
    return ssl.create_default_context()


def failure(error: Exception) -> UpstreamError | None:
    """Return the error to report, without the address or content; None when it was not the network.

    The adapter reports every lost connection of aiohttp as a timeout and lets some of its errors through; the
    cause distinguishes them.
    """
    cause = error if _of_aiohttp(error) else error.__cause__
    if _of_aiohttp(cause):
        silent = isinstance(cause, TimeoutError)
        unreached = any(kind.__name__ in _CONNECTING for kind in type(cause).__mro__)
    elif isinstance(error, httpx.HTTPError):
        silent = isinstance(error, httpx.TimeoutException)
        unreached = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    else:
        return None
    if unreached and (insecure := _of_tls(error)) is not None:
        unknown = isinstance(insecure, ssl.SSLCertVerificationError)
        return UpstreamError(
            "The upstream server "
            + ("has a certificate that cannot be verified." if unknown else "does not speak TLS with us."),
            code="upstream_tls",
            hint="Trusted are the system's authorities, or those of SSL_CERT_FILE."
            if unknown
            else "Check upstream.url.",
        )
    if unreached:
        return UpstreamError(
            "The upstream server cannot be reached.",
            code="upstream_unreachable",
            status=504 if silent else 502,
            hint="Try again when it is up.",
        )
    if silent:
        return UpstreamError("The upstream server fell silent.", code="upstream_timeout", status=504)
    if _of_long_lines(error) or _of_long_lines(cause):
        return UpstreamError(
            f"The upstream server sent a header line of more than {LINE_BYTES} bytes.",
            code="upstream_headers",
        )
    return UpstreamError("The upstream server broke off its answer.", code="upstream_died")


def hung_up(error: Exception) -> bool:
    """Whether the server closed the connection before it sent anything."""
    cause = error if _of_aiohttp(error) else error.__cause__
    if _of_aiohttp(cause):
        names = {kind.__name__ for kind in type(cause).__mro__}
        return bool(names & set(_HANGING_UP)) and not names & set(_CONNECTING)
    return isinstance(error, httpx.ReadError | httpx.WriteError) or (
        isinstance(error, httpx.RemoteProtocolError) and "without sending a response" in str(error)
    )


class _Session:
    """The adapter's session of aiohttp: no limit of 100, no headers of its own, none joined, no quoting."""

    def __init__(self) -> None:
        self.trusted = trusted()
        self._session: Any = None
        self._aiohttp: Any = need("aiohttp", "fast")
        self._multidict: Any = need("multidict", "fast")
        self._yarl: Any = need("yarl", "fast")

    def __call__(self) -> _Session:
        """Return the session; the adapter calls this before each request."""
        return self

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Send a request to an address that is not quoted again, its headers one by one."""
        aiohttp = self._aiohttp
        raw = options["headers"].raw
        options["headers"] = self._multidict.CIMultiDict(
            (name.decode("latin-1"), _text(value)) for name, value in raw
        )
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=KEEPALIVE_SECONDS, ssl=self.trusted
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
                max_line_size=LINE_BYTES,
                max_field_size=LINE_BYTES,
            )
        return self._session.request(method, self._yarl.URL(url, encoded=True), **options)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _text(value: bytes) -> str:
    """Return a header's value as the text that aiohttp writes in UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _of_long_lines(error: BaseException | None) -> bool:
    """Whether a line of the headers was too long, as either client says it."""
    return error is not None and any(
        said in str(error) for said in ("Got more than", "Receive buffer too long")
    )


def _of_tls(error: BaseException | None) -> ssl.SSLError | None:
    """Return the TLS failure that caused an error, if there was one."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _of_aiohttp(error: BaseException | None) -> bool:
    return type(error).__module__.startswith("aiohttp")
