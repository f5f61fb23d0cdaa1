"""What is relayed arrives byte for byte, both ways, as if there were no proxy."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from lynxstop.testing.server import MockServer
from tests.support.servers import Proxied, proxied, serving


class Echo:
    """Answers as the header `x-answer` says, and keeps what it received."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            body += message.get("body", b"")
            more = message.get("more_body", False)
        target = scope["raw_path"] + b"?" + scope["query_string"]
        headers = [pair for pair in scope["headers"] if pair[0] not in (b"host", b"connection", b"x-answer")]
        self.seen.append({"method": scope["method"], "target": target, "headers": headers, "body": body})
        answer = json.loads(dict(scope["headers"]).get(b"x-answer", b"{}"))
        parts = [part.encode("latin-1") for part in answer.get("body", ["ok"])]
        raw = [(name.encode(), value.encode("latin-1")) for name, value in answer.get("headers", [])]
        await send({"type": "http.response.start", "status": answer.get("status", 200), "headers": raw})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[Echo, str]]:
    app = Echo()
    with serving(app) as url:
        yield app, url


@pytest.fixture(scope="module", params=["httpx", "aiohttp"])
def proxy(request: pytest.FixtureRequest, echo: tuple[Echo, str]) -> Iterator[Proxied]:
    with proxied(echo[1] + "/v1/", upstream={"transport": request.param}) as made:
        yield made


def both(echo: tuple[Echo, str], proxy: Proxied, method: str, target: str, **how: Any) -> None:
    """Send a request directly and through the proxy; nothing may differ on either side."""
    app, direct = echo
    answer = how.pop("answer", {})
    headers = httpx.Headers([*how.pop("headers", []), ("x-answer", json.dumps(answer))])
    received, given = [], []
    for base in (direct, proxy.url):
        with httpx.Client() as client:
            content = how.get("content")
            request = client.build_request(
                method, base + target, headers=headers, content=content() if callable(content) else content
            )
            response = client.send(request, stream=True)
            body = b"".join(response.iter_raw())
            response.close()
        given.append((response.status_code, sorted(response.headers.raw), body))
        received.append(app.seen.pop())
    for one in received:
        one["headers"] = sorted(one["headers"])
    assert given[0] == given[1]
    assert received[0] == received[1]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_methods(echo: tuple[Echo, str], proxy: Proxied, method: str) -> None:
    both(echo, proxy, method, "/v1/anything", content=None if method in ("GET", "HEAD") else b"body")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/models",
        "/a%2Fb/c%20d?x=1&x=2&y=%E2%82%AC+z",
        "/v1/r/~x,y;z=1:2@3",
        "/q?",
        "/%7E%C3%A9?a[]=b&c='d'",
    ],
)
def test_targets(echo: tuple[Echo, str], proxy: Proxied, target: str) -> None:
    both(echo, proxy, "GET", target)


@pytest.mark.parametrize("status", [200, 201, 204, 304, 307, 400, 404, 418, 422, 429, 500, 503])
def test_statuses_are_not_ours_to_change(echo: tuple[Echo, str], proxy: Proxied, status: int) -> None:
    body = [] if status in (204, 304) else ['{"error": {"message": "theirs"}}']
    headers = [["location", "/elsewhere"], ["retry-after", "7"]]
    both(
        echo,
        proxy,
        "POST",
        "/v1/x",
        content=b"{}",
        answer={"status": status, "headers": headers, "body": body},
    )


def test_headers_repeat_and_keep_their_values(echo: tuple[Echo, str], proxy: Proxied) -> None:
    answer = {
        "headers": [["set-cookie", "a=1"], ["set-cookie", "b=2"], ["x-odd", "caf\xe9"], ["server", "up"]]
    }
    headers = [
        ("authorization", "Bearer k"),
        ("cookie", "a=1; b=2"),
        ("x-forwarded-for", "10.0.0.1"),
        ("accept", "x"),
        ("x-many", "1"),
        ("x-many", "2"),
        ("x-none", ""),
        ("x-utf-8", "caf\xe9".encode()),
    ]
    both(echo, proxy, "POST", "/v1/x", content=b"{}", headers=headers, answer=answer)


def test_compressed_bodies_are_not_unpacked(echo: tuple[Echo, str], proxy: Proxied) -> None:
    packed = gzip.compress(b"hello" * 100)
    answer = {
        "headers": [["content-encoding", "gzip"], ["content-length", str(len(packed))]],
        "body": [packed.decode("latin-1")],
    }
    headers = [("content-encoding", "gzip"), ("accept-encoding", "gzip, br")]
    both(echo, proxy, "POST", "/v1/x", content=packed, headers=headers, answer=answer)


def test_bytes_that_are_no_text(echo: tuple[Echo, str], proxy: Proxied) -> None:
    everything = bytes(range(256)) * 50
    answer = {"headers": [["content-type", "audio/wav"]], "body": [everything.decode("latin-1")]}
    both(echo, proxy, "POST", "/v1/audio/speech", content=everything, answer=answer)


def test_bodies_of_unknown_length(echo: tuple[Echo, str], proxy: Proxied) -> None:
    both(echo, proxy, "POST", "/v1/files", content=lambda: iter([b"a" * 70_000, b"b", b"c" * 200_000]))


def test_headers_of_a_connection_stay_on_it(echo: tuple[Echo, str], proxy: Proxied) -> None:
    app, _ = echo
    headers = {"connection": "close, x-hop", "x-hop": "1", "te": "trailers", "proxy-authorization": "Basic s"}
    httpx.get(proxy.url + "/v1/x", headers=headers)

    names = {name for name, _ in app.seen.pop()["headers"]}
    assert not names & {b"x-hop", b"te", b"proxy-authorization"}


class Large:
    """Takes and gives bodies of any size without keeping them."""

    def __init__(self) -> None:
        self.taken = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        more = True
        while more:
            message = await receive()
            self.taken += len(message.get("body", b""))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(128):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_huge_bodies_are_never_in_memory(transport: str) -> None:
    large = Large()
    with serving(large) as url, proxied(url, upstream={"transport": transport}) as proxy:
        tracemalloc.start()
        given = 0
        with httpx.stream(
            "POST", proxy.url + "/v1/files", content=(bytes(2**20) for _ in range(128))
        ) as response:
            for chunk in response.iter_raw():
                given += len(chunk)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert large.taken == given == 128 * 2**20
    assert peak < 24 * 2**20


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_the_openai_client_sees_no_difference(transport: str) -> None:
    ask: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2?"}]}
    with serving(MockServer()) as url, proxied(url, upstream={"transport": transport}) as proxy:
        answers = []
        for base in (url, proxy.url):
            client = OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
            whole = client.chat.completions.create(**ASKED, **ask)
            streamed = list(client.chat.completions.create(stream=True, **ASKED, **ask))
            models = client.models.list().data
            answers.append(
                (
                    whole.choices,
                    whole.usage,
                    [chunk.choices for chunk in streamed],
                    models,
                )
            )
            client.close()

    assert answers[0] == answers[1]


ASKED: dict[str, Any] = {"logprobs": True, "top_logprobs": 3, "seed": 5}
