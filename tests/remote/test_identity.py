"""A served model's fingerprint: the same from one look to the next, another for what makes a difference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.errors import ModelError
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.dialects.openai import OpenAI
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.http.sse import Bursts
from lynxstop.remote.identity import identify


class Answering:
    """A server that answers everything with the same tokens after the same prompt."""

    def __init__(self, prompt: list[int], *texts: str, logprobs: bool = True) -> None:
        self.prompt, self.texts, self.logprobs = prompt, texts, logprobs
        self.asked: list[Any] = []

    @asynccontextmanager
    async def events(self, path: str, body: Any) -> AsyncIterator[Bursts]:
        self.asked.append(body)
        yield self._events()

    async def _events(self) -> Bursts:
        yield [json.dumps({"prompt_token_ids": self.prompt, "choices": [{"delta": {}}]}).encode()]
        for number, text in enumerate(self.texts):
            shown = {"content": [{"token": text, "logprob": -1.0, "top_logprobs": []}]}
            choice = {"delta": {"content": text}, "logprobs": shown if self.logprobs else None}
            yield [json.dumps({"choices": [{**choice, "token_ids": [number]}]}).encode()]
        yield [json.dumps({"choices": [{"delta": {}, "finish_reason": "length"}]}).encode(), b"[DONE]"]


def seen(server: Answering, model: str = "toy", dialect: Dialect | None = None) -> Fingerprint:
    return asyncio.run(identify(server, dialect or Vllm(), model))  # type: ignore[arg-type]


def test_one_model_has_one_fingerprint_and_is_asked_greedily() -> None:
    server = Answering([1, 2], "a", "b")
    assert not seen(server).differences(seen(Answering([1, 2], "a", "b")))
    assert all(body["temperature"] == 0 and body["max_tokens"] == 8 for body in server.asked)


@pytest.mark.parametrize(
    ("other", "model", "dialect"),
    [
        (Answering([1, 2], "a", "b"), "another", Vllm()),
        (Answering([1, 2], "a", "b"), "toy", OpenAI()),
        (Answering([1, 2], "a", "c"), "toy", Vllm()),
        (Answering([1, 2], "ab"), "toy", Vllm()),
        (Answering([1, 3], "a", "b"), "toy", Vllm()),
        (Answering([1, 2, 3], "a", "b"), "toy", Vllm()),
    ],
)
def test_what_makes_a_difference_is_seen(other: Answering, model: str, dialect: Dialect) -> None:
    assert seen(Answering([1, 2], "a", "b")).differences(seen(other, model, dialect))


def test_a_server_that_shows_no_tokens_has_none() -> None:
    with pytest.raises(ModelError, match="shows no tokens"):
        seen(Answering([1], "a", logprobs=False))
