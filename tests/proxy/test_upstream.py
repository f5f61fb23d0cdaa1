"""Connections that a server closes when they are used again."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import pytest

from lynxstop.errors import MissingExtraError, UpstreamError
from lynxstop.remote.http.config import ConnectionConfig
from lynxstop.remote.http.upstream import Upstream


class Hasty:
    """Answers the first request of a connection, and hangs up at the second."""

    def __init__(self, first: int = 1) -> None:
        self.first = first
        self.connections = self.requests = self.open = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        for served in range(10):
            try:
                await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            await reader.readexactly(2)
            self.requests += 1
            if served >= self.first:
                break
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.open -= 1


async def ask(hasty: Hasty, transport: str, times: int) -> list[bytes]:
    server = await asyncio.start_server(hasty, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    upstream = Upstream(ConnectionConfig.model_validate({"url": address, "transport": transport}))
    upstream._reuses = True
    found = []
    try:
        for _ in range(times):
            async with upstream.stream("POST", "/v1/x", [(b"content-length", b"2")], b"{}") as response:
                found.append(await response.read())
    finally:
        await upstream.aclose()
        server.close()
        while hasty.open:
            await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_a_connection_closed_when_used_again_costs_no_request(transport: str) -> None:
    assert asyncio.run(ask(Hasty(), transport, 4)) == [b"ok"] * 4


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_a_server_that_always_hangs_up_is_asked_twice(transport: str) -> None:
    hasty = Hasty(first=0)
    with pytest.raises(UpstreamError) as caught:
        asyncio.run(ask(hasty, transport, 1))
    assert caught.value.code == "upstream_died"
    assert hasty.requests == 2


def test_a_client_that_is_not_installed_is_told_before_any_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx_aiohttp", None)
    with pytest.raises(MissingExtraError, match=r"lynxstop\[fast\]"):
        Upstream(ConnectionConfig(transport="aiohttp"))
    assert Upstream(ConnectionConfig(transport="httpx"))
