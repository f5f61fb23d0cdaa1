"""Everything that can break between a client and a server, at every stage: nothing hangs or leaks."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import APIError, OpenAI

from lynxstop.testing.server import MockServer
from tests.support.servers import Proxied, eventually, proxied, serving

ASK = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2?"}]}
LONG = "delay=0.003, checks=300"


@pytest.fixture(scope="module")
def mock() -> Iterator[tuple[MockServer, str]]:
    app = MockServer()
    with serving(app) as url:
        yield app, url


@pytest.fixture(scope="module", params=["httpx", "aiohttp"])
def proxy(request: pytest.FixtureRequest, mock: tuple[MockServer, str]) -> Iterator[Proxied]:
    with proxied(mock[1], upstream={"transport": request.param, "connect_seconds": 60}) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left_over(request: pytest.FixtureRequest, mock: tuple[MockServer, str]) -> Iterator[None]:
    proxy = request.getfixturevalue("proxy") if "proxy" in request.fixturenames else None
    mock[0].records.clear()
    yield
    eventually(lambda: mock[0].stats()["active"] == 0)
    if proxy is not None:
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)


def ask(url: str, settings: str = "", **more: Any) -> httpx.Response:
    return httpx.post(url + "/v1/chat/completions", json=ASK | more, headers={"x-mock": settings}, timeout=30)


def test_a_server_that_dies_before_its_headers_is_a_502(proxy: Proxied) -> None:
    for stream in (True, False):
        response = ask(proxy.url, "fault=before-headers", stream=stream)
        assert response.status_code == 502
        assert response.json()["error"]["code"] == "upstream_died"
    assert proxy.count("lynxstop_upstream_errors_total", code="upstream_died") >= 2


@pytest.mark.parametrize("fault", ["after-headers", "mid-thinking", "mid-answer", "before-done"])
def test_a_server_that_dies_in_a_stream_gives_an_error_event(proxy: Proxied, fault: str) -> None:
    raw = ask(proxy.url, f"fault={fault}", stream=True).content
    *_, last, rest = raw.split(b"\n\n")

    assert rest == b""
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_died"
    assert b"[DONE]" not in raw
    client = OpenAI(
        base_url=f"{proxy.url}/v1", api_key="x", max_retries=0, default_headers={"x-mock": f"fault={fault}"}
    )
    with client, pytest.raises(APIError, match="broke off"):
        list(client.chat.completions.create(**ASK, stream=True))  # type: ignore[call-overload]


@pytest.mark.parametrize("fault", ["after-headers", "before-done"])
def test_a_server_that_dies_in_a_document_leaves_it_without_its_end(proxy: Proxied, fault: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        ask(proxy.url, f"fault={fault}", stream=False)


def test_a_server_that_dies_within_an_event_leaves_the_stream_without_its_end() -> None:
    async def half(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b'data: {"a"', "more_body": True})

    with serving(half) as url, proxied(url) as proxy, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(proxy.url + "/v1/x")


def test_a_server_that_is_not_there_is_a_502() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for transport in ("httpx", "aiohttp"):
            with proxied(address, upstream={"transport": transport}) as proxy:
                response = ask(proxy.url)
                ready = httpx.get(proxy.url + "/ready")
            assert response.status_code == 502
            assert response.json()["error"]["code"] == "upstream_unreachable"
            assert ready.status_code == 503


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_a_silent_server_is_a_504_or_an_error_event(mock: tuple[MockServer, str], transport: str) -> None:
    with proxied(mock[1], upstream={"transport": transport, "read_seconds": 0.3}) as proxy:
        whole = ask(proxy.url, "fault=hang")
        streamed = ask(proxy.url, "fault=hang", stream=True).content

    assert whole.status_code == 504
    assert whole.json()["error"]["code"] == "upstream_timeout"
    assert b"upstream_timeout" in streamed.split(b"\n\n")[-2]


@pytest.mark.parametrize(
    "garbage", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", b"\x00" * 9]
)
@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_a_server_that_speaks_no_http_is_a_502(garbage: bytes, transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with proxied(address, upstream={"transport": transport}) as proxy, httpx.Client() as client:

            def speak() -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(65536)
                    peer.sendall(garbage)

            thread = threading.Thread(target=speak, daemon=True)
            thread.start()
            response = client.get(proxy.url + "/v1/models", timeout=30)
            thread.join(30)

    assert response.status_code == 502


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("wait", ["before the first chunk", "between chunks"])
def test_a_client_that_leaves_stops_the_server(
    mock: tuple[MockServer, str], proxy: Proxied, stream: bool, wait: str
) -> None:
    aborts = proxy.count("lynxstop_upstream_aborts_total", cause="client_gone")
    gone = proxy.count("lynxstop_requests_total", route="/v1/chat/completions", outcome="client_gone")
    settings = f"{LONG}, first_delay=20" if wait == "before the first chunk" else LONG
    body = json.dumps(ASK | {"stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nx-mock: {settings}\r\ncontent-length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as peer:
        peer.sendall(head.encode() + b"host: x\r\n\r\n" + body)
        eventually(lambda: mock[0].records)
        if wait == "between chunks":
            eventually(lambda: mock[0].records[0].tokens > 3)

    eventually(lambda: mock[0].records[0].outcome == "aborted")
    made = mock[0].records[0].tokens
    eventually(lambda: proxy.count("lynxstop_upstream_aborts_total", cause="client_gone") == aborts + 1)
    counted = proxy.count("lynxstop_requests_total", route="/v1/chat/completions", outcome="client_gone")
    assert counted == gone + 1
    assert mock[0].records[0].tokens == made < 1000


def test_a_client_that_leaves_while_it_sends_its_body(mock: tuple[MockServer, str], proxy: Proxied) -> None:
    gone = proxy.count("lynxstop_requests_total", route="/v1/chat/completions", outcome="client_gone")
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as peer:
        peer.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        eventually(lambda: proxy.count("lynxstop_requests_active") == 1)
    eventually(
        lambda: (
            proxy.count("lynxstop_requests_total", route="/v1/chat/completions", outcome="client_gone")
            == gone + 1
        )
    )


@pytest.mark.parametrize(
    "settings", ["split=1", "split=3, framing=crlf, pings=2", "framing=cr", "framing=mixed, pings=1"]
)
def test_split_and_odd_events_arrive_as_they_were_sent(
    mock: tuple[MockServer, str], proxy: Proxied, settings: str
) -> None:
    direct, through = (
        steady(ask(url, settings, stream=True, max_tokens=12).content) for url in (mock[1], proxy.url)
    )

    assert through == direct


@pytest.mark.parametrize("fault", ["huge-line", "charset", "garbage", "error-event"])
def test_odd_contents_arrive_as_they_were_sent(
    mock: tuple[MockServer, str], proxy: Proxied, fault: str
) -> None:
    responses = [ask(url, f"fault={fault}", stream=True) for url in (mock[1], proxy.url)]

    assert steady(responses[0].content) == steady(responses[1].content)
    assert responses[0].headers["content-type"] == responses[1].headers["content-type"]


def test_a_slow_reader_slows_the_server_down_and_gets_everything(proxy: Proxied) -> None:
    class Fast:
        """Writes as fast as it is let."""

        written = 0

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(1024):
                await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
                self.written += 2**16
            await send({"type": "http.response.body", "body": b""})

    fast = Fast()
    with (
        serving(fast) as url,
        proxied(url, upstream={"transport": proxy.app.config.upstream.transport}) as slow,
        httpx.stream("GET", slow.url + "/v1/files/1/content") as response,
    ):
        chunks = response.iter_raw(2**16)
        read = len(next(chunks))
        before = -1
        while before != fast.written:
            before = fast.written

            time.sleep(0.2)
        assert fast.written < 48 * 2**20, "what nobody reads piles up"
        read += sum(len(chunk) for chunk in chunks)

    assert read == fast.written == 2**26


def test_streams_are_never_mixed_up(proxy: Proxied) -> None:
    async def one(client: httpx.AsyncClient, number: int) -> None:
        body = {"messages": [{"role": "user", "content": f"{number} + 1000 * 1"}], "stream": True}
        settings = {"x-mock": "checks=1, split=50"}
        ids, text = set(), ""
        async with client.stream(
            "POST", proxy.url + "/v1/chat/completions", json=body, headers=settings
        ) as response:
            assert response.status_code == 200
            if number % 4 == 3:
                await anext(response.aiter_raw())
                return
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    ids.add(chunk["id"])
                    text += "".join(c["delta"].get("reasoning", "") for c in chunk["choices"])
        assert len(ids) == 1
        assert f"{number} + 1000 = " in text

    async def all_of_them() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=120) as client:
            await asyncio.gather(*(one(client, number) for number in range(32)))

    asyncio.run(all_of_them())


def steady(raw: bytes) -> bytes:
    """Blank out what differs from one answer to the next."""

    return re.sub(rb'"(id|created)":("[^"]*"|\d+)', b"", raw)


def test_a_server_that_does_not_read_slows_the_client_down(proxy: Proxied) -> None:
    given = [0]
    release = threading.Event()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while not release.is_set():
            await asyncio.sleep(0.01)
        taken, more = 0, True
        while more:
            message = await receive()
            taken += len(message.get("body", b""))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(taken).encode()})

    def body() -> Iterator[bytes]:
        for _ in range(1024):
            given[0] += 2**16
            yield bytes(2**16)

    def plateau() -> bool:
        before = given[0]
        time.sleep(0.3)
        return 0 < given[0] == before

    answers: list[str] = []
    transport = proxy.app.config.upstream.transport
    with serving(late) as url, proxied(url, upstream={"transport": transport}) as slow:

        def upload() -> None:
            answers.append(httpx.post(slow.url + "/v1/files", content=body(), timeout=60).text)

        thread = threading.Thread(target=upload)
        thread.start()
        eventually(plateau)
        held = given[0]
        release.set()
        thread.join(60)

    assert held < 48 * 2**20, "what the server does not read piles up"
    assert answers == [str(2**26)]
