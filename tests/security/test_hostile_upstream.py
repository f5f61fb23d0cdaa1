"""Servers that send what makes no sense: the request ends in an error that says so, or passes through."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest

from tests.support.canned import CHAT, Odd, chat
from tests.support.servers import Proxied, eventually, serving
from tests.support.watching import watching

BODY = {"model": "toy", "messages": [{"role": "user", "content": "?"}], "stream": True}
FIRST = chat("1")[0]
LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def thought(text: str, **changes: Any) -> dict[str, Any]:
    """An event of thinking, with its log-probabilities."""
    likely = {"token": text, "logprob": -0.5, "top_logprobs": [{"token": text, "logprob": -0.5}]}
    choice = {"index": 0, "delta": {"reasoning": text}, "logprobs": {"content": [likely]}, "token_ids": [337]}
    return {"id": "c1", "choices": [choice | changes]}


def listed(**changes: Any) -> dict[str, Any]:
    return thought(
        " a", logprobs={"content": [{"token": " a", "logprob": -1.0, "top_logprobs": []} | changes]}
    )


def counted(proxy: Proxied) -> dict[str, float]:
    """How the only request ended."""

    def outcomes() -> dict[str, float]:
        names = ("completed", "upstream_error", "failed")
        return {name: proxy.count("lynxstop_requests_total", route=CHAT, outcome=name) for name in names}

    eventually(lambda: sum(outcomes().values()) == 1)
    return outcomes()


ODD: dict[str, Any] = {
    "no object": [1],
    "a number": 5,
    "nothing": None,
    "choices of text": {"choices": "abc"},
    "a delta that is a list": thought(" a", delta=[1]),
    "content in parts": thought(" a", delta={"content": [{"type": "text", "text": "x"}]}),
    "a logprob of text": listed(logprob="x"),
    "a likely token of text": listed(top_logprobs=[{"token": "a", "logprob": "x"}]),
    "a token that is none": listed(token=None),
    "logprobs by name": thought(" a", logprobs={"content": {"a": 1}}),
    "many likely tokens": listed(top_logprobs=[{"token": str(n), "logprob": -9.0} for n in range(20_000)]),
    "token ids of text": thought(" a", token_ids="abc"),
    "a finish that is a number": thought(" a", finish_reason=5),
    "many choices": {"choices": [{"index": n, "delta": {"reasoning": "a"}} for n in range(5_000)]},
    "usage of text": {"choices": [], "usage": "x"},
    "counts of text": {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": "x"}},
    "negative counts": {"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 1}},
    "names that are objects": {"id": {}, "model": [], "choices": [{"index": 0, "delta": {"reasoning": "a"}}]},
}


@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
@pytest.mark.parametrize("name", ODD)
def test_an_odd_event_is_never_a_failure_of_ours(name: str, threshold: float) -> None:
    events = [FIRST, thought("n"), ODD[name], thought(" (Wait"), thought(","), thought(" no"), LAST]
    with (
        serving(Odd(*(json.dumps(event).encode() for event in events))) as url,
        watching(url, threshold) as proxy,
    ):
        answer = httpx.post(proxy.url + CHAT, json=BODY, timeout=60)
        outcomes = counted(proxy)
    assert outcomes["failed"] == 0
    assert answer.content.endswith(b"data: [DONE]\n\n") == bool(outcomes["completed"])


def test_nesting_without_end_is_refused() -> None:
    deep = b'{"choices":' + b"[" * 200_000
    with (
        serving(Odd(json.dumps(FIRST).encode(), deep, json.dumps(LAST).encode())) as url,
        watching(url) as proxy,
    ):
        answer = httpx.post(proxy.url + CHAT, json=BODY, timeout=60)
        assert counted(proxy)["upstream_error"] == 1
    assert b"upstream_nonsense" in answer.content


def test_a_fake_end_of_thinking_ends_the_watching_and_stops_nothing() -> None:
    # The prompt has opened the thinking; the model writes the end itself, in the middle of it.
    said = ["n1.", " So", " </think>", " (Wait", ",", " no", ". Wait", ","]
    events = [FIRST, *(thought(text, delta={"content": text}) for text in ["<think>", *said]), LAST]
    with (
        serving(Odd(*(json.dumps(event).encode() for event in events))) as url,
        watching(url, -math.inf) as proxy,
    ):
        answer = httpx.post(proxy.url + CHAT, json=BODY, timeout=60)
        assert counted(proxy)["completed"] == 1
        assert proxy.count("lynxstop_cues_total") == 0
    found = [json.loads(part[6:]) for part in answer.content.split(b"\n\n") if part.startswith(b"data: {")]
    text = "".join(
        choice["delta"].get("content") or "" for event in found for choice in event.get("choices") or ()
    )
    assert text == "<think>" + "".join(said)
    assert found[-1].get("lynxstop", {}).get("stopped") in (None, False)


@pytest.mark.parametrize("cues", [50, 5_000])
def test_spammed_cues_are_decided_one_by_one_and_change_nothing(cues: int) -> None:
    spam = [json.dumps(thought(" Wait,")).encode()] * 50
    server = Odd(json.dumps(FIRST).encode(), *spam, json.dumps(LAST).encode(), times=cues // 50)
    with serving(server) as url, watching(url, math.inf) as proxy:
        answer = httpx.post(proxy.url + CHAT, json=BODY, timeout=60)
        assert counted(proxy)["completed"] == 1
        # The last one is not followed by the word that would confirm it.
        assert proxy.count("lynxstop_cues_total") in (cues - 1, cues)
    found = [json.loads(part[6:]) for part in answer.content.split(b"\n\n") if part.startswith(b"data: {")]
    said = [choice["delta"].get("reasoning") for event in found for choice in event.get("choices") or ()]
    assert said.count(" Wait,") == cues
    assert set(said) == {" Wait,", None}
    assert found[-1]["lynxstop"]["stopped"] is False
