"""The error a client gets for each failure between proxy and server, whichever transport is used."""

from __future__ import annotations

import ssl

import aiohttp
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey

from lynxstop.remote.http.transport import failure, hung_up

KEY = ConnectionKey("secret.host", 1, False, True, None, None, None)


def mapped(error: Exception, cause: BaseException | None = None) -> Exception:
    """Raise an error from its cause, as the adapter does."""
    try:
        raise error from cause
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (httpx.ConnectError("x"), "upstream_unreachable", 502),
        (httpx.ConnectTimeout("x"), "upstream_unreachable", 504),
        (httpx.ReadTimeout("x"), "upstream_timeout", 504),
        (httpx.WriteTimeout("x"), "upstream_timeout", 504),
        (httpx.ReadError("x"), "upstream_died", 502),
        (httpx.RemoteProtocolError("x"), "upstream_died", 502),
        (aiohttp.ConnectionTimeoutError("x"), "upstream_unreachable", 504),
        (aiohttp.SocketTimeoutError("x"), "upstream_timeout", 504),
        (aiohttp.ClientPayloadError("x"), "upstream_died", 502),
        (aiohttp.ServerDisconnectedError("x"), "upstream_died", 502),
        (aiohttp.ClientConnectorError(KEY, OSError(1, "x")), "upstream_unreachable", 502),
        # The adapter calls any lost connection a timeout.
        (mapped(httpx.ConnectTimeout("x"), aiohttp.ServerDisconnectedError("x")), "upstream_died", 502),
        (mapped(httpx.ConnectError("x"), ssl.SSLCertVerificationError("x")), "upstream_tls", 502),
        (mapped(httpx.ConnectError("x"), ssl.SSLError("x")), "upstream_tls", 502),
        (
            mapped(
                httpx.ConnectError("x"),
                aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("x")),
            ),
            "upstream_tls",
            502,
        ),
    ],
)
def test_every_failure_has_a_name_and_tells_no_address(error: Exception, code: str, status: int) -> None:
    found = failure(error)
    assert found is not None
    assert (found.code, found.status_code) == (code, status)
    assert "secret.host" not in str(found)
    assert found.hint or code in ("upstream_timeout", "upstream_died")


def test_other_errors_are_not_the_network() -> None:
    assert failure(ValueError("x")) is None
    assert failure(OSError("disk")) is None


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (httpx.ReadError("x"), True),
        (httpx.WriteError("x"), True),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), True),
        (httpx.RemoteProtocolError("illegal status line"), False),
        (httpx.ConnectError("x"), False),
        (httpx.ReadTimeout("x"), False),
        (aiohttp.ServerDisconnectedError("x"), True),
        (aiohttp.ClientOSError("x"), True),
        (aiohttp.ClientConnectorError(KEY, OSError(1, "x")), False),
        (aiohttp.SocketTimeoutError("x"), False),
        (mapped(httpx.ConnectTimeout("x"), aiohttp.ServerDisconnectedError("x")), True),
    ],
)
def test_only_a_server_that_hung_up_is_asked_again(error: Exception, again: bool) -> None:
    assert hung_up(error) is again
