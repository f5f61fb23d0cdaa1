"""What a client said, and what the server said to it, survives being watched."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from typing import Any

import httpx
import orjson
import pytest

from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.dialects.llamacpp import LlamaCpp
from lynxstop.remote.dialects.openai import OpenAI
from lynxstop.testing.server import MockServer
from tests.support.canned import CHAT, COMPLETIONS, Odd, ask, canned, chat, continuation
from tests.support.servers import eventually, proxied, serving
from tests.support.watching import watching

BODY = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}]}
STREAM = [(b"content-type", b"text/event-stream"), (b"x-request-id", b"r1"), (b"cache-control", b"private")]


class Answers(Odd):
    """Streams events of a chat and of its continuation, each changed a little."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        made = continuation("1", {}) if scope["path"] == COMPLETIONS else chat("1")
        self.events = tuple(map(orjson.dumps, self.change(made)))
        await super().__call__(scope, receive, send)


def test_a_limit_that_is_null_does_not_hide_the_other(mock: tuple[str, MockServer]) -> None:
    with watching(mock[0]) as proxy:
        mock[1].records.clear()
        body = {**BODY, "max_tokens": 60, "max_completion_tokens": None}
        httpx.post(proxy.url + CHAT, json=body, timeout=30)
    assert mock[1].records[1].body["max_tokens"] is not None


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_below_zero_is_none(name: str) -> None:
    with serving(Answers(lambda events: events)) as url, watching(url) as proxy:
        answer = httpx.post(proxy.url + CHAT, json={**BODY, name: -1}, timeout=30).json()
    assert answer["lynxstop"]["stopped"]


def in_content(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write all that a server says as content, as one without a parser does."""
    for event in events:
        for choice in event["choices"]:
            if thought := choice["delta"].pop("reasoning", None):
                choice["delta"]["content"] = thought
    return events


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
@pytest.mark.parametrize("opens", [True, False])
def test_an_answer_is_not_taken_for_thinking_that_a_request_has_switched_off(opens: bool, path: str) -> None:
    # given a template that opens the thinking in the prompt, of which the stream shows nothing
    def answers(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if "prompt_token_ids" in events[0]:
            events[0]["prompt_token_ids"] = [1, 2, 3] if opens else [1, 2, 3, 4]
        return in_content(events) if "delta" in events[0]["choices"][0] else events

    # when a request is rendered without it
    body = {"model": "toy", "input": "?"} if path != CHAT else BODY
    with serving(Answers(answers)) as url, watching(url, opened=True, opened_by=(2, 3)) as proxy:
        answer = httpx.post(proxy.url + path, json=body, timeout=30).json()
    # then all is the answer
    assert answer["lynxstop"]["stopped"] is opens
    kinds = [item["type"] for item in answer.get("output", ())]
    assert kinds == ([] if path == CHAT else ["reasoning", "message"] if opens else ["message"])
    if not opens:
        assert "n1. (Wait, no.1}." in str(answer)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("dialect", [LlamaCpp(), OpenAI("text")])
def test_the_template_is_asked_where_the_stream_does_not_show_the_prompt(
    dialect: Dialect, fails: bool
) -> None:
    class Raw(Answers):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope.get("path") != "/apply-template":
                await super().__call__(scope, receive, send)
                return
            asked = orjson.loads((await receive())["body"])
            thinks = "chat_template_kwargs" not in asked
            shown = {"prompt": "?<think>\n" if thinks else "?<think>\n\n</think>\n\n"}
            await send({"type": "http.response.start", "status": 500 if fails else 200, "headers": []})
            await send({"type": "http.response.body", "body": orjson.dumps(shown)})

    raw = Raw(lambda events: in_content(events) if "delta" in events[0]["choices"][0] else events)
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    with serving(raw) as url, watching(url, dialect=dialect, opened=True) as proxy:
        thought, answered = (
            httpx.post(proxy.url + CHAT, json={**BODY, **more}, timeout=30).json() for more in ({}, off)
        )
    assert thought["lynxstop"]["stopped"] is not fails
    assert answered["lynxstop"]["stopped"] is False
    assert answered["choices"][0]["message"]["content"] == "n1. (Wait, no.1}."


@pytest.mark.parametrize("stop", ["</th", ["never", "The answer"]])
def test_a_stop_string_within_the_exit_text_is_left_to_the_server(
    mock: tuple[str, MockServer], stop: Any
) -> None:
    with watching(mock[0]) as proxy:
        answer = httpx.post(proxy.url + CHAT, json={**BODY, "stop": stop}, timeout=30).json()
        assert "lynxstop" not in answer
        assert proxy.count("lynxstop_passthrough_total", cause="stop") == 1
        answer = httpx.post(proxy.url + CHAT, json={**BODY, "stop": "never"}, timeout=30).json()
        assert answer["lynxstop"]["stopped"]


def test_nothing_is_held_back_once_nothing_can_be_decided() -> None:
    first, *rest = chat("1")
    bare = {"id": "c1", "choices": [{"index": 0, "delta": {"reasoning": " more"}}]}
    go_on = threading.Event()

    class Slow(Odd):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] != CHAT:
                await super().__call__(scope, receive, send)
                return
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": STREAM})
            for event in (first, *rest[:2], *[bare] * 20):
                data = b"data: " + orjson.dumps(event) + b"\n\n"
                await send({"type": "http.response.body", "body": data, "more_body": True})
            while not go_on.is_set():
                await asyncio.sleep(0.01)

    with serving(Slow()) as url, watching(url) as proxy:
        asked = {**BODY, "stream": True}
        with httpx.stream("POST", proxy.url + CHAT, json=asked, timeout=httpx.Timeout(30, read=10)) as answer:
            got = b""
            for chunk in answer.iter_raw():
                got += chunk
                if got.count(b" more") == 20:
                    break
            go_on.set()
    assert got.count(b" more") == 20


def test_a_continuation_that_counts_nothing_is_counted_by_its_events() -> None:
    def uncounted(events: list[Any]) -> list[Any]:
        return [event for event in events if not event.get("usage")]

    def counted(events: list[Any]) -> list[Any]:
        return events

    used = []
    for change in (uncounted, counted):
        with serving(Answers(change)) as url, watching(url) as proxy:
            answer = httpx.post(proxy.url + CHAT, json=BODY, timeout=30).json()
        assert answer["lynxstop"]["stopped"]
        used.append(answer["usage"]["completion_tokens"])
    # The end of the sequence has no event.
    assert used[1] - used[0] == 1


def test_an_error_that_is_null_is_none() -> None:
    server = Answers(lambda events: [{**event, "error": None} for event in events])
    with serving(server) as url, watching(url) as proxy:
        assert httpx.post(proxy.url + CHAT, json=BODY, timeout=30).status_code == 200


def test_signs_of_life_reach_the_client_of_a_watched_stream() -> None:
    first, *rest = chat("1")
    seen = threading.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") != CHAT:
            await Odd()(scope, receive, send)
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": STREAM})
        await send({"type": "http.response.body", "body": b": waiting\n\n", "more_body": True})
        while not seen.is_set():
            await asyncio.sleep(0.01)
        events = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in (first, *rest))
        await send({"type": "http.response.body", "body": events + b"data: [DONE]\n\n"})

    with serving(slow) as url, watching(url, math.inf) as proxy:
        asked = {**BODY, "stream": True}
        with httpx.stream("POST", proxy.url + CHAT, json=asked, timeout=30) as answer:
            chunks = answer.iter_raw()
            assert next(chunks) == b": ping\n\n"
            seen.set()
            assert b"[DONE]" in b"".join(chunks)


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_refusal_that_is_not_about_us_is_reported_as_it_is(status: int) -> None:
    asked = []

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()
        asked.append(scope["path"])
        body = b'{"tokens":[1]}' if scope["path"] == "/tokenize" else b'{"error":{"message":"busy"}}'
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"7")]
        code = 200 if scope["path"] == "/tokenize" else status
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    with serving(busy) as url, watching(url) as proxy:
        answer = httpx.post(proxy.url + CHAT, json=BODY, timeout=30)
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "7")
    assert answer.json() == {"error": {"message": "busy"}}
    assert asked.count(CHAT) == 1


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_refusal_that_may_be_about_us_is_settled_by_the_clients_own_request(status: int) -> None:
    asked = []

    async def picky(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = (await receive())["body"]
        ours = b'"top_logprobs"' in body
        if scope["path"] == CHAT:
            asked.append(ours)
        code = status if scope["path"] == CHAT and ours else 200
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"tokens":[1]}'})

    with serving(picky) as url, watching(url) as proxy:
        answer = httpx.post(proxy.url + CHAT, json=BODY, timeout=30)
        assert proxy.count("lynxstop_passthrough_total", cause=f"refused_{status}") == 1
    assert (answer.status_code, asked) == (200, [True, False])


@pytest.mark.parametrize("stream", [True, False])
def test_the_query_goes_out_and_the_servers_headers_come_back(stream: bool) -> None:
    queries = set()

    class Listening(Answers):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                queries.add((scope["path"], scope["query_string"]))

            async def named(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], *STREAM[1:], (b"content-length-hint", b"1")]
                await send(message)

            await super().__call__(scope, receive, named)

    with serving(Listening(lambda events: events)) as url, watching(url) as proxy:
        address = f"{proxy.url}{CHAT}?api-version=1"
        answer = httpx.post(address, json={**BODY, "stream": stream}, timeout=30)
    assert (CHAT, b"api-version=1") in queries
    assert (COMPLETIONS, b"api-version=1") in queries
    assert answer.headers["x-request-id"] == "r1"
    assert answer.headers.get("cache-control") == ("no-cache" if stream else None)
    assert answer.headers.get_list("content-type") == [
        "text/event-stream; charset=utf-8" if stream else "application/json"
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"bad_words": ["x"]},
        {"allowed_token_ids": [1]},
        {"include_stop_str_in_output": True},
        {"skip_special_tokens": False},
        {"cache_salt": "tenant"},
        {"watermarking": False},
        {"repetition_detection": {"max_pattern_size": 8, "min_count": 4}},
        {"session_id": "s1"},
        {"vllm_xargs": {"a": 1}},
    ],
)
def test_what_binds_the_thinking_binds_the_answer(mock: tuple[str, MockServer], more: dict[str, Any]) -> None:
    with watching(mock[0]) as proxy:
        mock[1].records.clear()
        httpx.post(proxy.url + CHAT, json={**BODY, **more}, timeout=30)
    assert len(mock[1].records) == 2
    for record in mock[1].records:
        assert {name: record.body.get(name) for name in more} == more


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("target", [b"/v1/a/../b", b"/v1/./x", b'/v1/x?q=<>"', b"/v1/%7euser?a=%2F&a=+"])
def test_a_target_goes_out_as_it_came(target: bytes, transport: str) -> None:
    seen = []

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()
        query = scope["query_string"]
        seen.append(scope["raw_path"] + (b"?" + query if query else b""))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with (
        serving(echo) as url,
        proxied(url, upstream={"transport": transport}) as proxy,
        socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as client,
    ):
        client.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        while client.recv(9999):
            pass
    assert seen == [target]


@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
def test_a_death_after_the_end_takes_nothing_away(threshold: float) -> None:
    path = CHAT if threshold > 0 else COMPLETIONS
    with canned("chunked") as (url, server), watching(url, threshold) as proxy:
        asyncio.run(ask(proxy.url))
        size = len(server.bodies[path]) - len(b"0\r\n\r\n")
        got = asyncio.run(ask(proxy.url, 1, f"{path} kill {size}"))
    assert got.done
    assert got.finishes == ["stop"]


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_a_coding_that_only_the_server_knows_goes_through(coding: str) -> None:
    async def good(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    with serving(good) as url, watching(url) as proxy:
        headers = {"content-encoding": coding}
        answer = httpx.post(proxy.url + CHAT, content=b"\x00packed", headers=headers, timeout=30)
        assert proxy.count("lynxstop_passthrough_total", cause="coding") == 1
    assert answer.status_code == 200


def test_shadow_counts_all_thinking() -> None:
    with canned() as (url, _), watching(url) as proxy:
        asyncio.run(ask(proxy.url, 1, lynxstop={"mode": "shadow"}))
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
        assert proxy.count("lynxstop_thinking_tokens_total", mode="shadow") == 5


def test_parameters_for_a_plugin_do_not_replace_what_the_server_refuses() -> None:
    seen: list[bytes] = []

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        seen.append((await receive())["body"])
        status, said = (200, b'{"tokens": [1]}') if scope["path"] == "/tokenize" else (400, b"No object.")
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": said})

    body = {**BODY, "vllm_xargs": "high"}
    with serving(refuse) as url, watching(url, cause="plugin", sections={"policy": {"risk": 0.1}}) as proxy:
        answer = httpx.post(proxy.url + CHAT, json=body, timeout=30)
    assert (answer.status_code, answer.text) == (400, "No object.")
    assert orjson.loads(seen[-1]) == body
