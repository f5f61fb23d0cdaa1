"""llama.cpp ends thinking within its own stream, where it can and where no certificate is about the answer.

The server here is canned: it has the shapes of llama.cpp's real events, of its route for control and of the
answers of that, as `tests/llamacpp/test_dialect.py` finds them at the real one.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import orjson
import pytest

from lynxstop import shipped
from lynxstop.artifacts.bundle import Bundle
from lynxstop.proxy.examination import Examiner
from lynxstop.remote.dialects.llamacpp import LlamaCpp
from lynxstop.remote.http.config import ConnectionConfig
from lynxstop.remote.http.connection import Connection
from lynxstop.remote.http.upstream import Upstream
from tests.support.servers import eventually, serving
from tests.support.watching import watching

CHAT, CONTROL = "/v1/chat/completions", "/v1/chat/completions/control"
BODY = {"model": "toy", "messages": [{"role": "user", "content": "What is 17 + 25?"}], "stream": True}
THOUGHT = ["Let", " me", " see", ".", " It", " is", " 42", "."]


class Llama:
    """Thinks until it is asked to end, then answers; `control` is whether the build has the route."""

    def __init__(self, *, control: bool = True, obeys: bool = True) -> None:
        self.control, self.obeys = control, obeys
        self.told: set[str] = set()
        self.asked: list[tuple[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        asked = orjson.loads(body) if body else {}
        self.asked.append((scope["path"], asked))
        match scope["path"]:
            case "/v1/chat/completions":
                await self._chat(asked, send)
            case "/v1/chat/completions/control" if self.control:
                known = asked["id"] in self.told or asked["id"] == f"chatcmpl-{len(self._chats())}"
                done = self.obeys and known
                if done:
                    self.told.add(asked["id"])
                await _json(send, 200, {"success": done})
            case "/apply-template":
                await _json(send, 200, {"prompt": "<think>\n"})
            case "/tokenize":
                await _json(send, 200, {"tokens": [1, 2]})
            case "/v1/completions":
                events = [
                    {"id": "cmpl-1", "choices": [{"index": 0, "text": "42", "finish_reason": None}]},
                    {"id": "cmpl-1", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]},
                ]
                await _start(send)
                for event in events:
                    await _event(send, event)
                await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
            case _:
                await _json(send, 404, {"error": {"message": "Not found.", "code": 404}})

    def _chats(self) -> list[Any]:
        return [asked for path, asked in self.asked if path == CHAT]

    async def _chat(self, asked: Any, send: Any) -> None:
        name = f"chatcmpl-{len(self._chats())}"
        await _start(send)
        for turn in range(400):
            word = THOUGHT[turn % len(THOUGHT)]
            await _event(send, _chunk(name, {"reasoning_content": word}, word))
            await asyncio.sleep(0.002)
            if name in self.told:
                break
        for word in ("\n\n", "The", " answer", " is", " 42", "."):
            await _event(send, _chunk(name, {"content": word}, word))
        await _event(send, _chunk(name, {}, None, "stop"))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _chunk(name: str, delta: Any, word: str | None, finish: str | None = None) -> Any:
    entry = {"token": word, "logprob": -0.1, "bytes": list((word or "").encode())}
    alternatives = [{**entry}, {"token": "x", "logprob": -3.0, "bytes": [120]}]
    logprobs = None if word is None else {"content": [{**entry, "top_logprobs": alternatives}]}
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
    return {"id": name, "object": "chat.completion.chunk", "created": 1, "model": "toy", "choices": [choice]}


async def _start(send: Any) -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"server", b"llama.cpp")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _event(send: Any, event: Any) -> None:
    body = b"data: " + orjson.dumps(event) + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _json(send: Any, status: int, content: Any) -> None:
    kind = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": orjson.dumps(content)})


def found_out(url: str) -> bool:
    async def ask() -> bool:
        upstream = Upstream(ConnectionConfig(url=url))
        try:
            return (await LlamaCpp().prioritised(Connection(upstream), "toy")).in_place
        finally:
            await upstream.aclose()

    return asyncio.run(ask())


def test_whether_a_server_ends_thinking_is_tried_before_it_is_relied_on() -> None:
    for server, expected in ((Llama(), True), (Llama(control=False), False)):
        with serving(server) as url:
            assert found_out(url) is expected
        assert server._chats()[0]["reasoning_control"] is True


def test_what_a_server_is_able_to_is_tried_once() -> None:
    server, examiner = Llama(), Examiner(Bundle.load(shipped.STREAM_BUNDLE), "llama.cpp")

    async def chats(url: str) -> list[int]:
        upstream, counts = Upstream(ConnectionConfig(url=url)), []
        for _ in range(2):
            for _ in range(2):
                found = await examiner._prioritised(Connection(upstream), LlamaCpp(), "toy")
                assert found.in_place
                counts.append(len(server._chats()))
            # Another server may come back.
            examiner.forget()
        await upstream.aclose()
        return counts

    with serving(server) as url:
        assert asyncio.run(chats(url)) == [1, 1, 2, 2]


@pytest.mark.parametrize("obeys", [True, False])
def test_answer_now_needs_no_second_prefill_and_falls_back(obeys: bool) -> None:
    server = Llama(obeys=obeys)
    with (
        serving(server) as url,
        watching(url, float("inf"), dialect=LlamaCpp(in_place=True)) as proxy,
        httpx.stream("POST", proxy.url + CHAT, json=BODY, timeout=30) as response,
    ):
        name = response.headers["x-lynxstop-request"]
        lines = response.iter_lines()
        next(lines)
        assert httpx.post(f"{proxy.url}/lynxstop/requests/{name}/answer").status_code == 202
        events = [orjson.loads(line[6:]) for line in lines if line.startswith("data: {")]
        outcome = "in_place" if obeys else "done"
        eventually(lambda: proxy.count("lynxstop_continuations_total", outcome=outcome) == 1)
    said = "".join(
        choice["delta"].get("content") or "" for event in events for choice in event.get("choices") or ()
    )
    assert "42" in said
    report = events[-1]["lynxstop"]
    assert (report["exit"], report["stopped"], report["certificate"]) == ("answer_now", True, None)
    paths = [path for path, _ in server.asked]
    assert paths.count(CONTROL) == 1
    assert ("/v1/completions" in paths) is not obeys
    assert len({event["id"] for event in events if event.get("id")}) == 1


class AtOnce(Llama):
    """Sends all of a thought with a cue in one piece, once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    async def _chat(self, asked: Any, send: Any) -> None:
        await _start(send)
        await _event(send, _chunk("chatcmpl-1", {"role": "assistant"}, None))
        await asyncio.to_thread(self.let.wait, 30)
        events = [_chunk("chatcmpl-1", {"reasoning_content": word}, word) for word in (*THOUGHT, "Wait", ",")]
        events += [_chunk("chatcmpl-1", {"content": "41"}, "41"), _chunk("chatcmpl-1", {}, None, "stop")]
        body = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
        await send({"type": "http.response.body", "body": body + b"data: [DONE]\n\n"})


@pytest.mark.parametrize("asked", [False, True])
def test_a_certified_exit_is_never_taken_in_place(asked: bool) -> None:
    # The server forces nothing after the thinking, and has gone on by then. Nor does it matter that somebody
    # has asked for the answer when the exit came first.
    server = AtOnce()
    with (
        serving(server) as url,
        watching(url, dialect=LlamaCpp(in_place=True)) as proxy,
        httpx.stream("POST", proxy.url + CHAT, json=BODY, timeout=30) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        if asked:
            name = response.headers["x-lynxstop-request"]
            assert httpx.post(f"{proxy.url}/lynxstop/requests/{name}/answer").status_code == 202
        server.let.set()
        events = [orjson.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert events[-1]["lynxstop"]["exit"] == "score"
    paths = [path for path, _ in server.asked]
    assert CONTROL not in paths
    assert "/v1/completions" in paths
