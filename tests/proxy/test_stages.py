"""Clients that leave and servers that die at every stage of a watched request, on every route."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.canned import (
    CHAT,
    COMPLETIONS,
    Canned,
    ask,
    canned,
    chat,
    continuation,
    left_over,
    requested,
    settled,
)
from tests.support.servers import Proxied, eventually
from tests.support.watching import watching

SAID = [{"role": "user", "content": "?"}]
ROUTES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": SAID},
    "/v1/messages": {"messages": SAID, "max_tokens": 100, "thinking": {"type": "adaptive"}},
    "/v1/responses": {"input": "?"},
}


def after(path: str, events: int, more: int = 0) -> str:
    """Say where a fault is: after so many events, and so many bytes of the next."""
    made = chat("00000") if path == CHAT else continuation("00000", {"prompt": [0] * 9})
    frames = [b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n" for event in made]
    return str(sum(len(b"%x\r\n%b\r\n" % (len(frame), frame)) for frame in frames[:events]) + more)


STAGES = {
    "before the head": (CHAT, "-1"),
    "after the head": (CHAT, "0"),
    "within an event": (CHAT, after(CHAT, 0, 40)),
    "between two of thinking": (CHAT, after(CHAT, 2)),
    "with a cue held back": (CHAT, after(CHAT, 3)),
    "before the cut is tokenized": ("/tokenize", "-1"),
    "while it is tokenized": ("/tokenize", "12"),
    "before the continuation's head": (COMPLETIONS, "-1"),
    "after the continuation's head": (COMPLETIONS, "0"),
    "within the continuation": (COMPLETIONS, after(COMPLETIONS, 1, 20)),
    "before the finish": (COMPLETIONS, after(COMPLETIONS, 2)),
    "before the usage": (COMPLETIONS, after(COMPLETIONS, 3)),
    "before the end": (COMPLETIONS, after(COMPLETIONS, 4)),
}
EARLY = ("before the head", "after the head", "within an event")
UNBEGUN = (
    "before the cut is tokenized",
    "while it is tokenized",
    "before the continuation's head",
    "after the continuation's head",
)
ORDER = (CHAT, "/tokenize", COMPLETIONS)


@pytest.fixture(scope="module", params=["aiohttp", "httpx"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Proxied, Canned]]:
    sections = {"upstream": {"transport": request.param}}
    with canned() as (url, server), watching(url, sections=sections) as proxy:
        assert asyncio.run(ask(proxy.url)).done
        yield proxy, server


@pytest.fixture
def clean(both: tuple[Proxied, Canned]) -> Iterator[tuple[Proxied, Canned]]:
    """Both, with nothing left of the requests of a test."""
    before = left_over()
    for counted in (both[1].seen, both[1].hung, both[1].left):
        counted.clear()
    yield both
    settled(*both, before)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_leaves_ends_its_request_at_once(
    clean: tuple[Proxied, Canned], stage: str, route: str, stream: bool
) -> None:
    proxy, server = clean
    path, place = STAGES[stage]
    gone = proxy.count("lynxstop_requests_total", route=route, outcome="client_gone")
    aborts = proxy.count("lynxstop_upstream_aborts_total", cause="client_gone")
    body = {"model": "toy", "stream": stream, **ROUTES[route]}
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as peer:
        peer.sendall(requested(route, 0, f"{path} hang {place}", body))
        eventually(lambda: server.hung[path])

    eventually(lambda: server.left[path] == 1)
    eventually(lambda: proxy.count("lynxstop_requests_total", route=route, outcome="client_gone") == gone + 1)
    # The answer that hung is aborted, and nothing more is asked for.
    assert proxy.count("lynxstop_upstream_aborts_total", cause="client_gone") == aborts + 1
    assert dict(server.seen) == dict.fromkeys(ORDER[: ORDER.index(path) + 1], 1)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_server_that_dies_is_reported(
    clean: tuple[Proxied, Canned], stage: str, route: str, stream: bool
) -> None:
    proxy, server = clean
    path, place = STAGES[stage]
    # After an exit of which nothing has been sent, the client gets the full answer instead.
    mended = not stream and path != CHAT
    outcome = "completed" if mended else "upstream_error"
    failed = proxy.count("lynxstop_requests_total", route=route, outcome=outcome)
    passed = proxy.count("lynxstop_passthrough_total", cause="continuation_failed")
    body = {"model": "toy", "stream": stream, **ROUTES[route]}
    answer = httpx.post(
        proxy.url + route,
        json=body,
        headers={"x-number": "00000", "x-fault": f"{path} kill {place}"},
        timeout=30,
    )

    # A server that hangs up before it says anything is asked once more; a continuation is tried three times.
    tries = 3 if stage in UNBEGUN else 1
    assert server.seen[path] == tries * (2 if place == "-1" else 1)
    eventually(lambda: proxy.count("lynxstop_requests_total", route=route, outcome=outcome) == failed + 1)
    assert proxy.count("lynxstop_passthrough_total", cause="continuation_failed") == passed + mended
    if mended:
        assert answer.status_code == 200
        return
    # Before anything has been said it is a status, then an event, and never an end.
    assert (answer.status_code == 502) is (not stream or stage in EARLY)
    if answer.status_code == 502:
        shown = answer.json()["error"]
    else:
        shown = json.loads(answer.text.strip().split("\n\n")[-1].partition("data: ")[2])["error"]
    for said in ("[DONE]", '"finish_reason":"stop"', "message_stop", "response.completed"):
        assert said not in answer.text
    assert "broke off" in shown["message"]
