"""Completions that the proxy watches: prompts as text and as tokens, and what passes through."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from lynxstop.testing.reasoner import held
from lynxstop.testing.server import MockServer
from tests.support.canned import Odd
from tests.support.servers import serving
from tests.support.watching import watching

PROMPT = "<|user|>\nWhat is 7 + 5 * 2 - 3?\n<|assistant|>\n<think>"
BODY: dict[str, Any] = {"model": "toy", "prompt": PROMPT, "max_tokens": 4000}


@pytest.fixture(scope="module")
def mock() -> Iterator[tuple[str, MockServer]]:
    server = MockServer()
    with serving(server) as url:
        yield url, server


def ask(url: str, **more) -> dict:
    answer = httpx.post(f"{url}/v1/completions", json={**BODY, **more}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(url: str, **more) -> list[dict]:
    body = {**BODY, "stream": True, **more}
    raw = httpx.post(f"{url}/v1/completions", json=body, timeout=60).text
    assert raw.endswith("data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]


def said(events: list[dict]) -> str:
    return "".join(choice["text"] for event in events for choice in event["choices"])


@pytest.mark.parametrize("as_tokens", [False, True])
def test_the_continuation_of_a_prompt_is_stopped(mock, proxy, as_tokens):
    address, server = mock
    prompt = server.vocabulary.encode(PROMPT) if as_tokens else PROMPT
    full = said(stream(address))
    server.records.clear()
    events = stream(proxy.url, prompt=prompt, stream_options={"include_usage": True})
    thinking, closed, answer = said(events).partition("\n</think>")
    assert closed
    assert full.startswith(thinking)
    assert len(thinking) < len(full) / 2
    assert answer == f"\n\nThe answer is \\boxed{{{held(thinking)}}}."
    _, second = server.records
    assert type(second.body["prompt"]) is type(prompt)
    text = second.body["prompt"] if not as_tokens else server.vocabulary.decode(second.body["prompt"])
    assert text == PROMPT + thinking + "\n</think>\n\nThe answer is \\boxed{"
    assert {event["object"] for event in events} == {"text_completion"}
    assert len({event["id"] for event in events}) == 1
    finishes = [choice["finish_reason"] for event in events for choice in event["choices"]]
    assert [finish for finish in finishes if finish] == ["stop"]
    assert not any(choice["logprobs"] or "delta" in choice for e in events for choice in e["choices"])
    usage = events[-1]["usage"]
    # A prompt that goes on as text is tokenized anew, and its end may merge with what follows.
    assert len(server.vocabulary.encode(PROMPT)) - usage["prompt_tokens"] in ((0,) if as_tokens else (0, 1))
    assert abs(usage["completion_tokens"] - len(server.vocabulary.encode(said(events)))) <= 2
    assert events[-1]["lynxstop"]["exit"] == "score"


def test_a_prompt_that_closes_its_thinking_is_an_answer(proxy):
    whole = ask(proxy.url, prompt=PROMPT + "\nLet me see.\n</think>")
    assert whole["lynxstop"]["exit"] is None
    assert whole["choices"][0]["finish_reason"] == "stop"


def test_without_a_stream_the_answer_is_whole(proxy):
    whole = ask(proxy.url)
    assert whole["object"] == "text_completion"
    assert whole["choices"][0]["text"] == said(stream(proxy.url))
    assert whole["lynxstop"]["stopped"] is True
    assert whole["usage"]["completion_tokens"] > 0


def test_the_unstopped_stream_is_the_servers_own(mock):
    with watching(mock[0], math.inf) as proxy:
        own, seen = stream(mock[0], logprobs=3), stream(proxy.url, logprobs=3)
    assert seen[-1].pop("lynxstop")["exit"] is None
    for event in (*own, *seen):
        event.pop("id"), event.pop("created")
    assert seen == own


@pytest.mark.parametrize("top", [1, 3])
def test_log_probabilities_are_those_the_client_asked_for(proxy, top):
    whole = ask(proxy.url, logprobs=top)
    found, text = whole["choices"][0]["logprobs"], whole["choices"][0]["text"]
    assert all(len(tops) <= top + 1 for tops in found["top_logprobs"])
    assert all(
        text[place:].startswith(token)
        for place, token in zip(found["text_offset"], found["tokens"], strict=True)
    )
    assert "".join(found["tokens"]).endswith(text.partition("{")[2])


TEXTS = ("n1.", " (Wait", ",", " no", ".", "</think>", "1}.")


def columns(text: str) -> dict[str, Any]:
    return {
        "tokens": [text],
        "token_logprobs": [-0.5],
        "top_logprobs": [{text: -0.5, "?": -2.0}],
        "text_offset": [0],
    }


def in_completions(change: Callable[[str], Any]) -> Odd:
    """Stream a completion whose log-probabilities are changed."""
    choices: list[dict[str, Any]] = [
        {"index": 0, "text": text, "logprobs": change(text), "token_ids": [place]}
        for place, text in enumerate(TEXTS)
    ]
    events: list[dict[str, Any]] = [{"id": "c1", "choices": [choice]} for choice in choices]
    events[0]["prompt_token_ids"] = [1, 2]
    events.append({"id": "c1", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
    return Odd(*(json.dumps(event).encode() for event in events))


ODD_LOGPROBS: dict[str, Callable[[str], Any]] = {
    "no list": lambda text: "x",
    "a list": lambda text: [text],
    "no tokens": lambda text: {**columns(text), "tokens": None},
    "a token of null": lambda text: {**columns(text), "tokens": [None]},
    "a token that is a number": lambda text: {**columns(text), "tokens": [5]},
    "tokens that are a number": lambda text: {**columns(text), "tokens": 5},
    "a value of text": lambda text: {**columns(text), "token_logprobs": ["-0.5"]},
    "two values for one token": lambda text: {**columns(text), "token_logprobs": [-0.5, -0.5]},
    "infinite": lambda text: {**columns(text), "token_logprobs": [-math.inf]},
    "the likely of null": lambda text: {**columns(text), "top_logprobs": [{text: None}]},
    "the likely as a list": lambda text: {**columns(text), "top_logprobs": [[text, -0.5]]},
    "the likely not a number": lambda text: {**columns(text), "top_logprobs": [{text: math.nan}]},
    "the likely for none": lambda text: {**columns(text), "top_logprobs": 3},
    "as chats have them, empty": lambda text: {"content": [{}]},
    "as chats have them, null": lambda text: {"content": None},
}


@pytest.mark.parametrize("top", [None, 0, 2])
@pytest.mark.parametrize("name", ODD_LOGPROBS)
def test_odd_log_probabilities_stop_nothing_and_lose_no_text(name: str, top: int | None) -> None:
    asked = {} if top is None else {"logprobs": top}
    with serving(in_completions(ODD_LOGPROBS[name])) as url, watching(url) as proxy:
        whole = ask(proxy.url, **asked)
        events = stream(proxy.url, **asked)
        assert proxy.count("lynxstop_requests_total", route="/v1/completions", outcome="failed") == 0
    assert whole["choices"][0]["text"] == said(events) == "".join(TEXTS)
    assert whole["lynxstop"]["stopped"] is events[-1]["lynxstop"]["stopped"] is False


@pytest.mark.parametrize("limit", [4000, -1])
def test_the_same_log_probabilities_as_they_should_be_stop_it(limit: int) -> None:
    # For llama.cpp's server, -1 tokens are no limit.
    with serving(in_completions(columns)) as url, watching(url) as proxy:
        assert ask(proxy.url, max_tokens=limit)["lynxstop"]["stopped"]


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"prompt": [PROMPT, PROMPT]}, "several_prompts"),
        ({"n": 17}, "several_choices"),
        ({"best_of": 2}, "several_choices"),
        ({"echo": True}, "echo"),
        ({"suffix": "!"}, "suffix"),
        ({"frequency_penalty": 1}, "penalties"),
        ({"prompt": {}}, "malformed"),
        ({"lynxstop": {"risk": "off"}}, "off"),
    ],
)
def test_what_cannot_be_watched_passes_through(proxy, more, cause):
    before = proxy.count("lynxstop_passthrough_total", cause=cause)
    httpx.post(f"{proxy.url}/v1/completions", json={**BODY, **more}, timeout=30)
    assert proxy.count("lynxstop_passthrough_total", cause=cause) == before + 1


def test_the_openai_client_reads_it(proxy):
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.completions.create(**BODY)
        parts = client.completions.create(**BODY, stream=True)
        assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text
