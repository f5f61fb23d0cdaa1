"""Ollama: the prompt is rendered by a debugging switch, and the native route takes it raw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lynxstop.errors import UpstreamError
from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import AnswerLimits, Call, Kept, Opening, ServerFacts, joined
from lynxstop.remote.dialects.chat import ChatDialect
from lynxstop.remote.dialects.reading import entry_tokens as tokens_of
from lynxstop.remote.server import Server

_OPTIONS = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "seed": "seed",
    "stop": "stop",
}  # fmt: skip
"""Sampling parameters of a chat, and their names in the native route."""


class Ollama(ChatDialect):
    """Written from Ollama's source of mid 2026, and not tested against the server.

    `_debug_render_only` makes `/api/chat` answer with the rendered prompt instead of generating, and
    `/api/generate` with `raw` continues it untouched. The first is not a documented interface: where it is
    missing, nothing can be continued, and requests pass through.
    """

    name = "ollama"
    facts = ServerFacts(
        sign=("/api/version", "version"), version=("/api/version", "version"), completion_limit=None
    )
    describes = "/api/generate from text"

    async def prompt_end(self, server: Server, opening: Opening) -> str:
        """Return the whole rendered prompt."""
        if opening.prompt_text is None:
            opening.prompt_text = await _rendered(server, opening.body)
        return opening.prompt_text

    async def continuation(self, server: Server, opening: Opening, kept: Kept, limits: AnswerLimits) -> Call:
        """Continue from text, with every parser off."""
        prompt = await self.prompt_end(server, opening)
        options = {"temperature": 1.0, "top_p": 1.0}  # of its OpenAI route, where a client says nothing
        options |= {native: opening.body[name] for name, native in _OPTIONS.items() if name in opening.body}
        if limits.max_tokens is not None:
            options["num_predict"] = limits.max_tokens
        body: Json = {
            "model": opening.body["model"],
            "prompt": joined(prompt, kept),
            "raw": True,
            "think": False,
            "stream": True,
            "options": {name: value for name, value in options.items() if value is not None},
        }
        if limits.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": limits.logprobs}
        return Call("/api/generate", body)

    def read_continuation(self, event: Json) -> Delta:
        """Read one line of the native stream."""
        usage = None
        if event.get("done") and "eval_count" in event:
            usage = {"completion_tokens": event["eval_count"]}
            if "prompt_eval_count" in event:
                usage["prompt_tokens"] = event["prompt_eval_count"]
        return Delta(
            content=event.get("response") or "",
            tokens=tokens_of(event.get("logprobs")),
            finish=(event.get("done_reason") or "stop") if event.get("done") else None,
            usage=usage,
        )


async def _rendered(server: Server, body: Mapping[str, Any]) -> str:
    """Let the server write a conversation as the model reads it."""
    asked: Json = {"model": body["model"], "messages": [_turn(message) for message in body["messages"]]}
    effort = body.get("reasoning_effort")
    if effort is not None:
        asked["think"] = False if effort == "none" else effort
    shown = await server.call("/api/chat", asked | {"stream": False, "_debug_render_only": True})
    known = shown.get("_debug_info") if isinstance(shown, dict) else None
    found = (known or {}).get("rendered_template")
    if not found:
        raise UpstreamError("The server does not show the rendered prompt that a continuation needs.")
    return str(found)


def _turn(message: Mapping[str, Any]) -> Json:
    """A message in the native form: the text in one piece."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(str(part.get("text") or "") for part in content)
    return {"role": message.get("role"), "content": content}
