"""vLLM's OpenAI server: token ids in the stream, completions from token ids."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lynxstop.errors import UpstreamError
from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import (
    AnswerLimits,
    Call,
    Dialect,
    Kept,
    Opening,
    ServerFacts,
    carried,
    hurried,
)
from lynxstop.remote.dialects.chat import ChatDialect
from lynxstop.remote.dialects.reading import read_completion
from lynxstop.remote.http.connection import RefusedError
from lynxstop.remote.server import Server


class Vllm(ChatDialect):
    """Tested with vLLM 0.32.

    `return_token_ids` makes the stream show the tokens of the prompt, in its first event, and those of every
    delta, so that a continuation needs no tokenizer and no second rendering of the template.

    Parameters
    ----------
    prioritises : bool
        Whether the server schedules by priority.
    """

    name = "vllm"
    facts = ServerFacts(
        owner="vllm",
        version=("/version", "version"),
        counters=("vllm:num_requests_running", "vllm:generation_tokens_total"),
        thinking_budget="thinking_token_budget",
        splits_choices=True,
    )
    describes = "/v1/completions from token ids"
    exact = True
    neutral: Mapping[str, Any] = MappingProxyType({"top_k": 0, "min_p": 0.0})

    def __init__(self, *, prioritises: bool = False) -> None:
        self.prioritises = prioritises

    async def prioritised(self, server: Server, model: str) -> Dialect:
        """Ask for one token with a priority: without `--scheduling-policy priority`, vLLM refuses that."""
        asked = {"model": model, "prompt": "a", "max_tokens": 1, "priority": -1}
        try:
            await server.call("/v1/completions", asked)
        except RefusedError:
            return self
        return Vllm(prioritises=True)

    async def has_plugin(self, server: Server) -> bool:
        """Look for the plugin's counters among the server's own."""
        return b"lynxstop:" in await server.text("/metrics")

    def watched(self, body: Mapping[str, Any]) -> Json:
        """Ask for log-probabilities, token ids and usage."""
        return {**super().watched(body), "return_token_ids": True}

    def read(self, event: Json) -> Delta:
        """Read one event of a chat stream; tokens that have no ids cannot be continued, and are not read."""
        delta = super().read(event)
        return delta if all(token.id is not None for token in delta.tokens) else delta._replace(tokens=())

    async def continuation(self, server: Server, opening: Opening, kept: Kept, limits: AnswerLimits) -> Call:
        """Continue from token ids; the kept part of a token is tokenized together with the exit."""
        if opening.prompt_ids is None or any(token.id is None for token in kept.tokens):
            raise UpstreamError(
                "The server did not show the token ids that a continuation needs.",
                hint="This dialect needs vLLM 0.12 or later; choose `openai` for an older one.",
            )
        forced = list(kept.exit_ids)
        if kept.tail or not forced:
            text = kept.tail.decode(errors="replace") + kept.exit_text
            forced = list(await self.tokenize(server, opening.body["model"], text)) if text else []
        prompt = [*opening.prompt_ids, *(token.id for token in kept.tokens), *forced]
        body = {
            **carried(opening.body),
            "prompt": prompt,
            "stream": True,
            "stream_options": {"include_usage": True},
            # Left out, it would be 16.
            "max_tokens": limits.max_tokens,
        }
        body |= hurried(self, opening.body)
        if limits.logprobs is not None:
            body["logprobs"] = limits.logprobs
        return Call("/v1/completions", body, len(forced))

    async def prompt_end(self, server: Server, opening: Opening) -> str | None:
        """Let the server decode the last tokens of the prompt."""
        if not opening.prompt_ids:
            return None
        asked = {"model": opening.body["model"], "tokens": list(opening.prompt_ids[-16:])}
        return str((await server.call("/detokenize", asked))["prompt"])

    async def tokenize(self, server: Server, model: str, text: str) -> tuple[int, ...]:
        """Ask the server's tokenizer."""
        asked = {"model": model, "prompt": text, "add_special_tokens": False}
        found = await server.call("/tokenize", asked)
        if not isinstance(found, dict) or not isinstance(found.get("tokens"), list):
            raise UpstreamError("The server does not tokenize as vLLM does.", code="upstream_nonsense")
        return tuple(found["tokens"])

    def read_continuation(self, event: Json) -> Delta:
        """Read one event of a completion stream."""
        return read_completion(event)

    def clean(self, event: Json, body: Mapping[str, Any]) -> None:
        """Remove token ids and the prompt, unless the client asked for them."""
        if not body.get("return_prompt_text"):
            event.pop("prompt_text", None)
        if not body.get("return_token_ids"):
            event.pop("prompt_token_ids", None)
            for choice in event.get("choices") or ():
                choice.pop("token_ids", None)
