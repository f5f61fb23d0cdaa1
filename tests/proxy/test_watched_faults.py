"""What a watched stream may be like: slow readers, huge lines, wrong encodings, silence, and many at once."""

from __future__ import annotations

import asyncio
import gc
import math
import time
import tracemalloc
from typing import Any

import httpx
import orjson
import pytest

from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.canned import (
    ANSWER,
    CHAT,
    COMPLETIONS,
    EXIT_BEHIND,
    THOUGHT,
    Odd,
    ask,
    canned,
    chat,
    continuation,
    left_over,
    numbered,
    settled,
)
from tests.support.servers import eventually, serving
from tests.support.watching import watching

BODY = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}], "stream": True}


def events_of(content: bytes) -> list[Any]:
    return [orjson.loads(part[6:]) for part in content.split(b"\n\n") if part.startswith(b"data: {")]


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
@pytest.mark.parametrize("logprobs", [True, False])
def test_a_slow_reader_slows_the_server_down(transport: str, logprobs: bool) -> None:
    first, thought, *_ = map(orjson.dumps, chat("x" * 4000))
    last = orjson.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    server = Odd(first, thought, last, times=8_000)
    body = {**BODY, "logprobs": logprobs}
    with (
        serving(server) as url,
        watching(url, math.inf, sections={"upstream": {"transport": transport}}) as proxy,
        httpx.stream("POST", proxy.url + CHAT, json=body, timeout=60) as response,
    ):
        chunks = response.iter_raw()
        next(chunks)
        before = -1
        while before != server.written:
            before = server.written
            time.sleep(0.2)
        assert server.written < 48 * 2**20 < len(thought) * server.times, "what nobody reads piles up"


@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
def test_a_line_of_a_megabyte_is_an_event_like_others(threshold: float) -> None:
    with serving(MockServer(MockSettings(opened=True))) as url, watching(url, threshold) as proxy:
        plain, huge = (
            events_of(httpx.post(proxy.url + CHAT, json=BODY, headers={"x-mock": fault}, timeout=60).content)
            for fault in ("", "fault=huge-line")
        )
    padded = [event for event in huge if len(event.pop("padding", "")) == 2**20]
    assert len(padded) == 1
    assert [event["choices"] for event in huge] == [event["choices"] for event in plain]


def test_an_event_beyond_the_limit_is_reported() -> None:
    sections = {"limits": {"event_bytes": 2**19}}
    with (
        serving(MockServer(MockSettings(opened=True))) as url,
        watching(url, math.inf, sections=sections) as proxy,
    ):
        faulty = {"x-mock": "fault=huge-line"}
        answer = httpx.post(proxy.url + CHAT, json=BODY, headers=faulty, timeout=60)
    assert "more than 524288 bytes" in events_of(answer.content)[-1]["error"]["message"]
    assert b"[DONE]" not in answer.content


@pytest.mark.parametrize("broken", [b"\xff", "é".encode("latin-1"), "é".encode("utf-16"), b"\xed\xa0\x80"])
@pytest.mark.parametrize("place", [CHAT, COMPLETIONS])
def test_what_is_no_utf_8_is_reported_and_not_guessed(broken: bytes, place: str) -> None:
    class Wrong(Odd):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def spoil(message: Any) -> None:
                if scope["path"] == place:
                    message = {**message, "body": message.get("body", b"").replace(b"number", broken)}
                await send(message)

            events = continuation("number", {}) if scope["path"] == COMPLETIONS else chat("number")
            # The first event is as it should be, so that there is a stream to tell in.
            events[0] = {**chat("0")[0], "prompt_token_ids": [1]} if scope["path"] == CHAT else events[0]
            self.events = tuple(map(orjson.dumps, events))
            await super().__call__(scope, receive, spoil)

    with serving(Wrong()) as url, watching(url) as proxy:
        answer = httpx.post(proxy.url + CHAT, json=BODY, timeout=60)
    *_, last = events_of(answer.content)
    assert last["error"]["code"] == "upstream_nonsense"
    assert b"[DONE]" not in answer.content
    assert "\ufffd" not in answer.text


@pytest.mark.parametrize("stage", [(CHAT, "0"), (CHAT, "900"), (COMPLETIONS, "-1"), (COMPLETIONS, "90")])
@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_a_server_that_falls_silent_is_reported(transport: str, stage: tuple[str, str]) -> None:
    sections = {"upstream": {"transport": transport, "read_seconds": 0.3}}
    with canned() as (url, server), watching(url, sections=sections) as proxy:
        asyncio.run(ask(proxy.url))
        before = left_over()
        got = asyncio.run(ask(proxy.url, 1, f"{stage[0]} hang {stage[1]}"))
        settled(proxy, server, before)
        assert server.left[stage[0]] == 1
    assert got.error == "upstream_timeout"
    assert (got.status, got.done, got.finishes) == (504 if stage == (CHAT, "0") else 200, False, [])


@pytest.mark.parametrize(
    ("framing", "transport", "count"),
    [("chunked", "aiohttp", 400), ("kept", "aiohttp", 400), ("kept", "httpx", 100)],
)
def test_hundreds_at_once_keep_their_own_and_leave_nothing(framing: str, transport: str, count: int) -> None:
    faults = (
        "",
        "",
        f"{CHAT} kill 700",
        f"{COMPLETIONS} kill 100",
        f"{CHAT} split 800",
        f"{COMPLETIONS} split 99",
    )
    # Client, proxy and server share one process: with all connecting at once, none may run out of time.
    sections = {"upstream": {"transport": transport, "connect_seconds": 300}}
    with canned(framing) as (url, server), watching(url, sections=sections) as proxy:
        asyncio.run(ask(proxy.url))
        before = left_over()

        async def one(number: int) -> None:
            fault = faults[number % len(faults)]
            if number % 7 == 6:
                # A client that has waited long enough, wherever its request is.
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(ask(proxy.url, number, f"{CHAT} hang 700"), 0.5)
                return
            got = await ask(proxy.url, number, fault)
            assert got.done is ("kill" not in fault)
            said = "".join(numbered(THOUGHT, f"{number:05}"))
            assert said.startswith(got.said().rstrip("\n"))
            if got.done:
                assert got.said("content") == EXIT_BEHIND + "".join(numbered(ANSWER, f"{number:05}"))
            assert {event["id"] for event in got.events if "id" in event} <= {f"c{number:05}"}

        async def everyone() -> None:
            await asyncio.gather(*map(one, range(1, count + 1)))

        asyncio.run(everyone())
        if framing == "kept":
            # Connections are used again, and those that are not any more are kept for a while.
            eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
            assert server.connections < sum(server.seen.values())
        else:
            settled(proxy, server, before)
        assert proxy.count("lynxstop_requests_total", route=CHAT, outcome="failed") == 0


def test_requests_free_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # The last decisions are kept, and as many as here are there soon.
    monkeypatch.setattr("lynxstop.proxy.running.KEPT", 8)
    faults = ("", f"{CHAT} kill 700", f"{COMPLETIONS} kill 100", f"{COMPLETIONS} kill -1")

    async def many(url: str, count: int) -> None:
        for number in range(count):
            # The same text each time: the texts of tokens are remembered, up to a bound.
            await ask(url, 0, faults[number % len(faults)])

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    with canned() as (url, server), watching(url) as proxy:
        tracemalloc.start()
        try:
            asyncio.run(many(proxy.url, 80))
            before, open_then = held(), left_over()
            asyncio.run(many(proxy.url, 160))
            settled(proxy, server, open_then)
            grown = held() - before
        finally:
            tracemalloc.stop()
    assert grown < 160 * 400, f"{grown / 160:.0f} bytes per request"
