"""The corners of HTTP that no client library shows: spoken byte by byte, on both sides of the proxy."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from lynxstop.proxy.app import create_app
from lynxstop.proxy.config import ProxyConfig
from lynxstop.testing.server import MockServer
from tests.support.servers import Proxied, eventually, proxied, serving
from tests.support.watching import watching

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


class Peer:
    """A server that keeps what it gets, and answers with given bytes."""

    def __init__(self) -> None:
        self.answer = OK
        self.got: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self.got.append(whole(connection))
                    connection.sendall(self.answer)


def whole(connection: socket.socket) -> bytes:
    """Read a request."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += connection.recv(2**16)
    head = found.lower()
    if length := re.search(rb"content-length: (\d+)", head):
        while len(found.partition(b"\r\n\r\n")[2]) < int(length[1]):
            found += connection.recv(2**16)
    elif b"transfer-encoding: chunked" in head:
        while not found.endswith(b"0\r\n\r\n"):
            found += connection.recv(2**16)
    return found


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture(scope="module", params=["httpx", "aiohttp"])
def proxy(request: pytest.FixtureRequest, peer: Peer) -> Iterator[Proxied]:
    with proxied(peer.url, upstream={"transport": request.param}) as made:
        yield made


@pytest.fixture(autouse=True)
def anew(peer: Peer) -> None:
    peer.answer = OK
    peer.got.clear()


def say(proxy: Proxied, first: bytes, then: bytes = b"") -> tuple[bytes, bytes]:
    """Send bytes; with `then`, more of them after the first answer. Return what came, before and after."""
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=30) as client:
        client.sendall(re.sub(rb"(?<!\r)\n", b"\r\n", first))
        before = client.recv(2**16) if then else b""
        client.sendall(then)
        after = b""
        while piece := client.recv(2**16):
            after += piece
    return before, after


HEAD = b"HTTP/1.1\nhost: x\nconnection: close\n"


def test_a_body_that_waits_for_leave_gets_it_from_us(proxy: Proxied, peer: Peer) -> None:
    asked = b"POST /v1/files " + HEAD + b"expect: 100-continue\ncontent-length: 4\n\n"
    before, after = say(proxy, asked, b"body")
    assert before.startswith(b"HTTP/1.1 100 Continue\r\n")
    assert (before + after).endswith(b"ok")
    [got] = peer.got
    assert got.endswith(b"\r\n\r\nbody")
    assert b"expect" not in got.lower()


def test_chunks_of_a_body_arrive_joined_or_not_but_whole(proxy: Proxied, peer: Peer) -> None:
    body = b"4\r\nbody\r\n3;x=y\r\n\x00\r\n\r\n0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=30) as client:
        head = b"POST /v1/files " + HEAD + b"transfer-encoding: chunked\n\n"
        for piece in (head.replace(b"\n", b"\r\n"), *(body[at : at + 1] for at in range(len(body)))):
            client.sendall(piece)
        assert client.recv(2**16).startswith(b"HTTP/1.1 200")
    raw, said = peer.got[0].partition(b"\r\n\r\n")[2], b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        said, raw = said + raw[: int(size, 16)], raw[int(size, 16) + 2 :]
    assert said == b"body\x00\r\n"


def test_trailers_cost_neither_body(proxy: Proxied, peer: Peer) -> None:
    peer.answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 9\r\n\r\n"
    asked = b"POST /v1/files " + HEAD + b"transfer-encoding: chunked\n\n4\nbody\n0\nx-sum: 1\n\n"
    _, answer = say(proxy, asked)
    assert b"body" in peer.got[0]
    assert answer.endswith(b"2\r\nok\r\n0\r\n\r\n")


@pytest.mark.parametrize("name", ["GET", "POST"])
def test_a_websocket_gets_no_upgrade(proxy: Proxied, peer: Peer, name: str) -> None:
    peer.answer = b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    asked = (
        b"%s /v1/realtime HTTP/1.1\nhost: x\nconnection: upgrade, close\nupgrade: websocket\n" % name.encode()
    )
    more = b"sec-websocket-version: 13\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\ncontent-length: 0\n\n"
    _, answer = say(proxy, asked + more)
    assert answer.startswith(b"HTTP/1.1 426")
    assert b"upgrade: websocket" not in peer.got[0].lower()


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/x?a=%ZZ&b=%&c=%2&&=;d?/:@",
        b"/v1/x?e=a|b&f={}^`&g=%e2%82%ac&g=%E2%82%AC&h=+%20",
        b"//a//b/%2F;p=1/%zz",
    ],
)
def test_odd_escapes_are_left_alone(proxy: Proxied, peer: Peer, target: bytes) -> None:
    say(proxy, b"GET " + target + b" " + HEAD + b"\n")
    assert peer.got[0].split(b" ")[1] == target


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS"])
def test_a_target_names_no_other_server(proxy: Proxied, peer: Peer, method: bytes) -> None:
    other = Peer()
    try:
        named = other.url.removeprefix("http://").encode()
        for target in (b"*", b"*@" + named + b"/", b"*@" + named):
            _, answer = say(proxy, method + b" " + target + b" " + HEAD + b"\n")
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b'"bad_target"' in answer
        assert not peer.got + other.got
    finally:
        other.close()


@pytest.mark.parametrize("length", [b"4", b"12"])
@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_a_body_of_two_lengths_is_no_second_request(peer: Peer, transport: str, length: bytes) -> None:
    head = b"POST /v1/files " + HEAD + b"content-length: " + length + b"\ntransfer-encoding: chunked\n\n"
    made = {
        kind: create_app(ProxyConfig.model_validate({"upstream": {"url": peer.url, "transport": transport}}))
        for kind in ("httptools", "h11")
    }
    for kind, app in made.items():
        with serving(app, http=kind, proxy_headers=False) as url:
            _, answer = say(Proxied(url, app), head + b"2\nhi\n0\n\nGET /v1/other HTTP/1.1\nhost: x\n\n")
        assert answer.startswith(b"HTTP/1.1 400 " if kind == "httptools" else b"HTTP/1.1 200 ")
    [got] = peer.got
    assert b"content-length" not in got.lower()
    assert got.endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n")


def test_headers_keep_their_number_their_order_and_their_bytes(proxy: Proxied, peer: Peer) -> None:
    peer.answer = OK.replace(
        b"\r\n\r\n", b"\r\nx-a: 1\r\nx-b: caf\xe9\r\nx-a: \xc3\xa9\r\nset-cookie: a\r\n\r\n"
    )
    given = [b"x-a: 1", b"cookie: a", b"x-b: caf\xc3\xa9", b"x-a: 2", b"cookie: b", b"x-c: "]
    _, answer = say(proxy, b"GET /v1/x " + HEAD + b"\n".join(given) + b"\n\n")
    got = [line for line in peer.got[0].split(b"\r\n") if line[:2] == b"x-" or line[:6] == b"cookie"]
    assert got == given
    assert b"x-a: 1\r\nx-b: caf\xe9\r\nx-a: \xc3\xa9\r\nset-cookie: a\r\n" in answer


def test_headers_of_the_servers_connection_stay_on_it(proxy: Proxied, peer: Peer) -> None:
    hop = b"connection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nx-kept: 2\r\n"
    peer.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + hop + b"\r\nok"
    _, answer = say(proxy, b"GET /v1/x " + HEAD + b"\n")
    assert b"x-kept: 2" in answer
    assert not {b"x-hop", b"keep-alive"} & {line.partition(b":")[0] for line in answer.lower().split(b"\r\n")}


def test_an_answer_of_the_old_protocol_ends_where_its_connection_does(proxy: Proxied, peer: Peer) -> None:
    peer.answer = b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nuntil the end"
    _, answer = say(proxy, b"GET /v1/x " + HEAD + b"\n")
    assert answer.endswith(b"\r\nd\r\nuntil the end\r\n0\r\n\r\n")
    assert b"content-type: text/plain" in answer


def test_head_has_the_length_and_no_body(proxy: Proxied, peer: Peer) -> None:
    peer.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\nconnection: close\r\n\r\n"
    _, answer = say(proxy, b"HEAD /v1/files/1 " + HEAD + b"\n")
    assert b"content-length: 99" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_request_after_another_on_one_connection_is_answered_too() -> None:
    body = b'{"model": "toy", "messages": [{"role": "user", "content": "7 + 5 * 2"}], "stream": true}'
    asked = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
    with serving(MockServer()) as url, watching(url) as proxy:
        last = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        _, answer = say(proxy, asked * 3 + last)
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
    assert answer.count(b"data: [DONE]") == 3
    assert answer.endswith(b'{"status":"ok"}')
