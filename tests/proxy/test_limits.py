"""Limits on bodies and requests, keys, and what is never passed on."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from typing import Any

import httpx
import pytest

from lynxstop.proxy.app import create_app
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.exchange import Incoming, Reply
from lynxstop.testing.server import MockServer
from tests.support.canned import CHAT
from tests.support.servers import Proxied, eventually, proxied, serving


async def length(incoming: Incoming, reply: Reply) -> None:
    """Answer with the number of messages in the body."""
    body = str(len(incoming.json(limit=2**20)["messages"])).encode()
    await reply.start(200, [(b"content-length", str(len(body)).encode())])
    await reply.end(body)


def handled(**sections: Any) -> Any:
    app = create_app(ProxyConfig.model_validate(sections), {("POST", "/v1/chat/completions"): length})
    return proxied("unused", app)


def post(proxy: Proxied, content: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(proxy.url + "/v1/chat/completions", content=content, headers=named, timeout=30)


def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    body = json.dumps({"messages": [1, 2, 3]}).encode()
    with handled(limits={"body_bytes": len(body)}) as proxy:
        assert post(proxy, body).text == "3"
        for content in (body + b" ", iter([body, b" "])):
            refused = post(proxy, content)
            assert refused.status_code == 413
            assert refused.json()["error"]["code"] == "request_too_large"
            assert refused.headers["connection"] == "close"
        # Announced as large: refused though nothing of it has been sent.
        with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as peer:
            peer.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n")
            assert peer.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity"])
def test_compressed_bodies_are_read_where_a_handler_needs_them(coding: str) -> None:
    import zlib

    body = b'{"messages": [1, 2]}'
    packed = {"gzip": gzip.compress(body), "deflate": zlib.compress(body), "identity": body}[coding]
    with handled() as proxy:
        assert post(proxy, packed, content_encoding=coding).text == "2"


def test_bodies_that_cannot_be_read() -> None:
    bomb = gzip.compress(bytes(2 * 2**20))
    with handled() as proxy:
        assert post(proxy, b"{").status_code == 400
        assert post(proxy, b"\xff").status_code == 400
        assert post(proxy, b"{}", content_encoding="br").status_code == 415
        assert post(proxy, b"{}", content_encoding="gzip").status_code == 400
        assert post(proxy, gzip.compress(b"{}")[:-4], content_encoding="gzip").status_code == 400
        assert post(proxy, bomb, content_encoding="gzip").status_code == 413


def test_a_body_that_never_arrives_is_given_up() -> None:
    with (
        handled(limits={"body_seconds": 0.2}) as proxy,
        socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as peer,
    ):
        peer.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        assert peer.recv(100).startswith(b"HTTP/1.1 408")


def test_an_error_of_a_handler_is_a_500_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with handled() as proxy:
        response = post(proxy, b'{"secret": 1}')

    assert response.status_code == 500
    assert "secret" not in response.text + caplog.text
    assert proxy.count("lynxstop_requests_total", route="/v1/chat/completions", outcome="failed") == 1


def test_requests_beyond_the_limit_wait_and_then_are_refused() -> None:
    mock = MockServer()
    limits = {"concurrent": 2, "queue": 1, "queue_seconds": 60}
    answers: list[int] = []

    def ask(fault: str) -> None:
        answers.append(
            httpx.post(
                proxy.url + "/v1/completions",
                json={"prompt": "1 + 1"},
                headers={"x-mock": f"checks=0, first_delay={fault}"},
                timeout=60,
            ).status_code
        )

    with serving(mock) as url, proxied(url, limits=limits) as proxy:
        threads = [threading.Thread(target=ask, args=("1.5",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        eventually(lambda: proxy.count("lynxstop_requests_active") == 3)
        eventually(lambda: len(mock.records) == 2)
        refused = httpx.get(proxy.url + "/v1/models")
        health = httpx.get(proxy.url + "/health")
        for thread in threads:
            thread.join(60)

        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "overloaded"
        assert health.status_code == 200
        assert answers == [200, 200, 200]
        assert len(mock.records) == 3


def test_a_client_that_leaves_the_queue_leaves_no_trace() -> None:
    mock = MockServer()
    with serving(mock) as url, proxied(url, limits={"concurrent": 1, "queue": 5}) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-mock: first_delay=60\r\n"
        with socket.create_connection(("127.0.0.1", port)) as first:
            first.sendall(head + b"content-length: 14\r\n\r\n" + b'{"prompt":"1"}')
            eventually(lambda: len(mock.records) == 1)
            with socket.create_connection(("127.0.0.1", port)) as second:
                second.sendall(head + b"content-length: 14\r\n\r\n" + b'{"prompt":"1"}')
                eventually(lambda: proxy.count("lynxstop_requests_active") == 2)
            eventually(lambda: proxy.count("lynxstop_requests_active") == 1)
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
        assert httpx.get(proxy.url + "/v1/models").status_code == 200
        assert len(mock.records) == 1


class Keys:
    """Keeps the keys it was shown."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            self.shown.append({n: headers[n] for n in ("authorization", "x-api-key") if n in headers})
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})


def test_keys_of_the_proxy_are_required_and_stay_with_it() -> None:
    keys = Keys()
    with (
        serving(keys) as url,
        proxied(url, serve={"api_keys": ["one", "two"]}, upstream={"api_key": "theirs"}) as proxy,
    ):

        def get(path: str = "/v1/models", **headers: Any) -> httpx.Response:
            return httpx.get(proxy.url + path, headers={n.replace("_", "-"): v for n, v in headers.items()})

        assert get().status_code == 401
        assert get(authorization="Bearer on").status_code == 401
        assert get(authorization="Bearer one").status_code == 200
        assert get(authorization="bearer two").status_code == 200
        assert get(x_api_key="one").status_code == 200
        assert get(x_api_key=b"\xe9").status_code == 401
        assert get(authorization="Basic one").status_code == 401
        assert get("/health").status_code == get("/metrics").status_code == 200
        assert get().headers["www-authenticate"] == "Bearer"

    assert keys.shown == [{"authorization": "Bearer theirs"}] * 3


def test_a_browser_may_ask_the_server_before_it_shows_its_key() -> None:
    keys = Keys()
    with serving(keys) as url, proxied(url, serve={"api_keys": ["one"]}) as proxy:
        asks = {"origin": "https://chat.example", "access-control-request-method": "POST"}
        answers = [httpx.options(proxy.url + CHAT, headers=headers) for headers in (asks, {})]
        answers.append(httpx.post(proxy.url + CHAT, headers=asks))
    assert [answer.status_code for answer in answers] == [200, 401, 401]
    assert len(keys.shown) == 1


def test_without_keys_of_its_own_the_client_s_key_goes_on() -> None:
    keys = Keys()
    with serving(keys) as url:
        with proxied(url) as proxy:
            httpx.get(proxy.url + "/v1/models", headers={"authorization": "Bearer mine", "x-api-key": "mine"})
        with proxied(url, upstream={"api_key": "theirs"}) as proxy:
            httpx.get(proxy.url + "/v1/models", headers={"authorization": "Bearer mine"})
        with proxied(url, serve={"api_keys": ["ours"]}) as proxy:
            httpx.get(proxy.url + "/v1/models", headers={"authorization": "Bearer ours"})

    assert keys.shown == [
        {"authorization": "Bearer mine", "x-api-key": "mine"},
        {"authorization": "Bearer theirs"},
        {},
    ]


def test_a_handler_may_pass_on_what_it_has_read() -> None:
    from lynxstop.proxy.relay import relay
    from lynxstop.remote.http.upstream import Upstream

    mock = MockServer()
    with serving(mock) as url:
        config = ProxyConfig.model_validate({"upstream": {"url": url}})
        upstream = Upstream(config.upstream)
        app = create_app(config, {("POST", "/v1/completions"): relay(upstream)}, upstream=upstream)
        with proxied(url, app) as proxy:
            answer = httpx.post(proxy.url + "/v1/completions", json={"prompt": "1 + 1"}).json()

    assert answer["choices"][0]["text"].endswith("}.")


def test_what_happens_before_the_first_request_may_add_handlers_or_end_the_server() -> None:
    from lynxstop.errors import ConfigError
    from lynxstop.proxy.app import App

    async def add(app: App) -> None:
        app.handlers["POST", "/v1/chat/completions"] = length

    async def refuse(app: App) -> None:
        raise ConfigError("The bundle is another model's.")

    with proxied("unused", create_app(ProxyConfig(), startup=add)) as proxy:
        assert post(proxy, b'{"messages": [1]}').text == "1"

    async def start() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            sent.append(message)

        await create_app(ProxyConfig(), startup=refuse)({"type": "lifespan"}, receive, send)
        return sent

    assert asyncio.run(start()) == [
        {"type": "lifespan.startup.failed", "message": "The bundle is another model's."}
    ]
