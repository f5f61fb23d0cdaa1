"""The proxy's other routes in front of llama.cpp's real server: prompts, messages, responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from lynxstop.remote.dialects.llamacpp import LlamaCpp
from tests.support.servers import Proxied
from tests.support.watching import watching

PROBLEMS = Path(__file__).parents[2] / "data" / "problems" / "test.jsonl"
QUESTION = json.loads(PROBLEMS.read_text().splitlines()[0])["prompt"]
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
ANSWER = "\n\nThe answer is \\boxed{"


@pytest.fixture(scope="module")
def proxy(llama_server: str) -> Iterator[Proxied]:
    # It stops at the first cue.
    with watching(llama_server, dialect=LlamaCpp()) as made:
        yield made


@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize("limit", [{}, {"max_tokens": 600}])
def test_a_prompt_is_stopped(
    llama_server: str, proxy: Proxied, as_tokens: bool, limit: dict[str, int]
) -> None:
    text = httpx.post(f"{llama_server}/apply-template", json={"messages": MESSAGES}).json()["prompt"]
    ids = httpx.post(f"{llama_server}/tokenize", json={"content": text, "parse_special": True}).json()[
        "tokens"
    ]
    asked = {
        "model": "reasoner",
        "prompt": ids if as_tokens else text,
        "temperature": 0,
        "logprobs": 2,
        **limit,
    }
    full = httpx.post(f"{llama_server}/v1/completions", json=asked, timeout=120).json()
    early = httpx.post(f"{proxy.url}/v1/completions", json=asked, timeout=120).json()
    [choice] = early["choices"]
    thinking, closed, answer = choice["text"].partition("\n</think>")
    assert closed
    assert full["choices"][0]["text"].startswith(thinking)
    assert answer.startswith(ANSWER)
    assert early["lynxstop"]["stopped"] is True
    assert early["usage"]["prompt_tokens"] == len(ids)
    assert early["usage"]["completion_tokens"] < full["usage"]["completion_tokens"] / 2
    shown = choice["logprobs"]
    assert all(
        choice["text"][place:].startswith(token)
        for place, token in zip(shown["text_offset"], shown["tokens"], strict=True)
    )


def test_other_protocols_are_translated_or_passed_through(proxy: Proxied) -> None:
    off = {"lynxstop": {"risk": "off"}}
    with (
        anthropic.Anthropic(base_url=proxy.url, api_key="none", max_retries=0) as one,
        openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0) as other,
    ):
        asked: dict[str, Any] = {"model": "reasoner", "max_tokens": 1100, "messages": MESSAGES}
        message = one.messages.create(**asked, thinking={"type": "adaptive"}, extra_body={"temperature": 0})
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert message.content[1].text.startswith(ANSWER)
        own = one.messages.create(**asked, extra_body={"temperature": 0, **off})
        assert own.usage.output_tokens > 2 * message.usage.output_tokens

        body: dict[str, Any] = {"model": "reasoner", "input": QUESTION, "temperature": 0}
        response = other.responses.create(**body)
        assert response.output_text == message.content[1].text
        assert response.output[0].content[0].text == message.content[0].thinking
        full = other.responses.create(**body, extra_body=off)
        assert full.usage.output_tokens == own.usage.output_tokens
    assert proxy.count("lynxstop_passthrough_total", cause="off") == 2
