"""Requests that the proxy writes itself: what they carry, and the streams that answer them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from lynxstop.errors import UpstreamError
from lynxstop.proxy.untouched import why_untouched
from lynxstop.remote.http.config import ConnectionConfig
from lynxstop.remote.http.connection import Connection
from lynxstop.remote.http.upstream import Upstream
from tests.support.servers import serving


class Lines:
    """Answers with the given pieces of a body, and keeps the headers of its requests."""

    def __init__(
        self, pieces: Sequence[bytes], kind: bytes = b"application/x-ndjson", name: bytes = b""
    ) -> None:
        self.pieces, self.kind, self.name = pieces, kind, name
        self.seen: list[dict[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.seen.append(dict(scope["headers"]))
        headers = [(b"content-type", self.kind)] + [(b"server", self.name)] * bool(self.name)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})


def read(
    app: Lines, headers: Sequence[tuple[bytes, bytes]] = (), times: int = 1, **limits: Any
) -> list[bytes]:
    async def run(url: str) -> list[bytes]:
        upstream = Upstream(ConnectionConfig(url=url))
        found: list[bytes] = []
        try:
            for _ in range(times):
                async with Connection(upstream, headers, **limits).events("/api", {}) as events:
                    found += [data async for burst in events for data in burst]
        finally:
            await upstream.aclose()
        return found

    with serving(app) as url:
        return asyncio.run(run(url))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_of_json_are_events(size: int) -> None:
    body = b'{"a": 1}\n\n{"b": "\\n"}\r\n{"c": 3}'
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert [line.strip() for line in read(Lines(pieces))] == [b'{"a": 1}', b'{"b": "\\n"}', b'{"c": 3}']


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(UpstreamError, match="too large"):
        read(Lines([b"x" * 50] * 4), event_bytes=100)


def test_what_lets_llamacpp_go_on_for_a_lost_client_is_left_out() -> None:
    app = Lines([b"{}\n"])
    read(app, [(b"X-Conversation-Id", b"1"), (b"x-kept", b"2")])
    assert b"x-conversation-id" not in app.seen[0]
    assert app.seen[0][b"x-kept"] == b"2"


@pytest.mark.parametrize(("name", "closing"), [(b"llama.cpp", True), (b"uvicorn", False)])
def test_connections_that_the_server_would_close_unsaid_are_used_once(name: bytes, closing: bool) -> None:
    app = Lines([b"{}\n"], name=name)
    read(app, times=3)
    assert [headers.get(b"connection") == b"close" for headers in app.seen] == [True, closing, closing]


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "media"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, None),
        ({"messages": [{"role": "user", "content": "a"}, "b"]}, None),
        ({"n_predict": 5}, "own_limit"),
        ({"grammar": "root ::= [0-9]"}, "structured_output"),
        ({"guided_grammar": "root ::= [0-9]"}, "structured_output"),
        ({"stream_reasoning": False}, "thinking_hidden"),
    ],
)
def test_what_a_text_cannot_carry_passes_through(more: dict[str, Any], cause: str | None) -> None:
    assert why_untouched({"messages": [], **more}) == cause
