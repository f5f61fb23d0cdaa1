"""What is found out in the middle of a stream, and means that it is no longer cut: the client gets it all."""

from __future__ import annotations

import math
from typing import Any

import httpx
import orjson
import pytest

from tests.support.canned import CHAT, COMPLETIONS, Odd, chat, continuation
from tests.support.servers import eventually, serving
from tests.support.watching import watching

BODY = {"model": "toy", "messages": [{"role": "user", "content": "?"}], "stream": True}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def event(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "c00001", "choices": [{"index": 0, "delta": delta, **more}]}


TOP = [{"token": " and", "logprob": -0.5}, {"token": "?", "logprob": -2}]
LOGPROBS = {"content": [{**TOP[0], "top_logprobs": TOP}]}
"""Of a token without its id in the server's vocabulary."""

TWO = {"id": "c00001", "choices": [{"index": at, "delta": {"reasoning": "x"}} for at in (0, 1)]}


@pytest.mark.parametrize("place", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("odd", "cause"),
    [
        (event({"tool_calls": [CALL]}), "not_understood"),
        (event({"function_call": {"name": "f", "arguments": "{}"}}), "not_understood"),
        (event({"refusal": "No."}), "not_understood"),
        (TWO, "not_understood"),
        (event({"reasoning": " and"}), "no_logprobs"),
        (event({"reasoning": " and"}, logprobs=LOGPROBS), "no_logprobs"),
    ],
)
def test_nothing_is_cut_after_what_is_not_understood(odd: dict[str, Any], cause: str, place: int) -> None:
    # given a stream that is cut at its cue, except for one event before that, or while the cue is held back
    events = chat("00001")
    events.insert(place, odd)
    asked: list[str] = []

    class Noting(Odd):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            asked.append(scope.get("path", ""))
            await super().__call__(scope, receive, send)

    with serving(Noting(*map(orjson.dumps, events))) as url, watching(url) as proxy:
        answer = httpx.post(proxy.url + CHAT, json=BODY, timeout=30)
        eventually(lambda: proxy.count("lynxstop_passthrough_total", cause=cause) == 1)

    got = [orjson.loads(part[6:]) for part in answer.content.split(b"\n\n") if part.startswith(b"data: {")]
    for part in (*events, *got):
        for choice in part["choices"]:
            for name in ("logprobs", "token_ids"):
                choice.pop(name, None)
        for name in ("prompt_token_ids", "usage"):
            part.pop(name, None)
    report = got[-1].pop("lynxstop")
    assert got == [part for part in events if part["choices"]]
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert report["stopped"] is False
    assert COMPLETIONS not in asked


def test_a_block_in_the_answers_field_without_log_probabilities_is_not_cut_blindly() -> None:
    """A server that parses no thinking, and shows no tokens of a part of it."""
    first, *rest = chat("00001")
    events = [first, event({"content": "<think>"}, **shown("<think>")), event({"content": " so"})]
    for part in rest[:5]:
        [choice] = part["choices"]
        choice["delta"] = {"content": choice["delta"]["reasoning"]}
        events.append(part)
    events += [event({"content": "</think>7"}, **shown("</think>7")), rest[-2]]
    with serving(Odd(*map(orjson.dumps, events))) as url, watching(url) as proxy:
        answer = httpx.post(proxy.url + CHAT, json={**BODY, "stream": False}, timeout=30).json()
    assert answer["choices"][0]["message"]["content"] == "<think> son00001. (Wait, no.</think>7"
    assert answer["lynxstop"]["stopped"] is False


def shown(text: str) -> dict[str, Any]:
    top = [{"token": text, "logprob": -0.5}, {"token": "?", "logprob": -2}]
    return {"logprobs": {"content": [{**top[0], "top_logprobs": top}]}, "token_ids": [5]}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_an_error_among_the_events_is_one_whatever_follows(path: str) -> None:
    class Failing(Odd):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            events = continuation("00001", {}) if scope["path"] == COMPLETIONS else chat("00001")
            if scope["path"] == path:
                events.insert(1, {"error": {"message": "out of memory", "code": 500}})
            self.events = tuple(map(orjson.dumps, events))
            await super().__call__(scope, receive, send)

    with serving(Failing()) as url, watching(url) as proxy:
        streamed = httpx.post(proxy.url + CHAT, json=BODY, timeout=30)
        whole = httpx.post(proxy.url + CHAT, json={**BODY, "stream": False}, timeout=30)
    if path == COMPLETIONS:
        # Nothing has been sent, so the exit is given up and the full answer comes.
        assert whole.status_code == 200
        assert b"out of memory" not in whole.content
    else:
        assert whole.status_code == 500
        assert whole.json()["error"]["code"] == 500
        assert whole.json()["error"]["message"] == "out of memory"
    assert b"out of memory" in streamed.content
    assert b"[DONE]" not in streamed.content
    assert b'"stop"' not in streamed.content


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_text_in_the_last_event_arrives_though_the_server_fails_after_it(path: str) -> None:
    """vLLM says the last token and the reason to finish in one event."""

    class Failing(Odd):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            events = continuation("00001", {}) if scope["path"] == COMPLETIONS else chat("00001")
            if scope["path"] == path:
                *events, last, _, _ = events
                last["choices"][0]["finish_reason"] = "stop"
                events += [last, {"error": {"message": "out of memory", "code": 500}}]
            self.events = tuple(map(orjson.dumps, events))
            await super().__call__(scope, receive, send)

    threshold = math.inf if path == CHAT else -math.inf
    with serving(Failing()) as url, watching(url, threshold) as proxy:
        answer = httpx.post(proxy.url + CHAT, json=BODY, timeout=30)
    got = [orjson.loads(part[6:]) for part in answer.content.split(b"\n\n") if part.startswith(b"data: {")]
    *events, error = got
    assert error["error"]["message"] == "out of memory"
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas).endswith("00001}.")
    assert b'"stop"' not in answer.content
