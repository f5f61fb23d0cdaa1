"""Any other server of OpenAI's protocol: continuation methods are tried one by one."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Literal

from lynxstop.errors import UpstreamError
from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import (
    AnswerLimits,
    Call,
    Dialect,
    Kept,
    Opening,
    carried,
    joined,
    resumed,
    written_again,
)
from lynxstop.remote.dialects.chat import ChatDialect
from lynxstop.remote.dialects.reading import read_as_answer, read_completion
from lynxstop.remote.server import Server

Route = Literal["tokens", "text", "resume"]

_LEADS = ("", "{open}", "{open}\n")

_DESCRIBED: Mapping[Route, str] = {
    "tokens": "/v1/completions from token ids",
    "text": "/v1/completions from text",
    "resume": "continue_final_message",
}


class OpenAI(ChatDialect):
    """A server about which nothing is known.

    Parameters
    ----------
    route : str
        How answers are continued: completions from the prompt's token ids (as /tokenize returns them for
        messages), completions from the prompt's text (as /apply-template returns it), or the last message
        resumed. `lynxstop.remote.continuation_check` finds out which of them works.
    lead : str
        What is missing in both the prompt and the stream, with "{open}" for the delimiter of thinking: some
        parsers take it out, and some templates write it into new messages only.
    """

    name = "openai"

    def __init__(self, route: Route = "resume", lead: str = "") -> None:
        self.route, self.lead = route, lead
        self.describes = _DESCRIBED[route]

    async def routes(self, server: Server, model: str) -> Sequence[Dialect]:
        """Return all methods that the server offers; completions first, as no template changes them."""
        asked = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        found: list[OpenAI] = []
        if await _answers(_prompt_ids(server, asked)):
            found += [OpenAI("tokens", lead) for lead in _LEADS]
        if await _answers(_prompt_text(server, asked)):
            found.append(OpenAI("text"))
        return [*found, *(OpenAI("resume", lead) for lead in _LEADS)]

    async def continuation(self, server: Server, opening: Opening, kept: Kept, limits: AnswerLimits) -> Call:
        """Continue by the route that was found."""
        if self.route == "resume":
            return Call("/v1/chat/completions", resumed(opening.body, kept, limits, lead=self.lead))
        prompt: str | list[int]
        if self.route == "tokens":
            prompt = await _prompt_ids(server, opening.body)
            prompt += await self.tokenize(server, opening.body["model"], written_again(kept, self.lead))
        else:
            prompt = joined(await _prompt_text(server, opening.body), kept)
        body = {
            **carried(opening.body),
            "prompt": prompt,
            "stream": True,
            "stream_options": {"include_usage": True},
            # Left out, it would be 16 with many servers.
            "max_tokens": limits.max_tokens,
        }
        if limits.logprobs is not None:
            body["logprobs"] = limits.logprobs
        return Call("/v1/completions", body)

    def read_continuation(self, event: Json) -> Delta:
        """Read one event of the second stream."""
        return read_as_answer(event) if self.route == "resume" else read_completion(event)

    async def prompt_end(self, server: Server, opening: Opening) -> str | None:
        """Return what the route shows."""
        if self.route == "tokens":
            ids = await _prompt_ids(server, opening.body)
            shown = await server.call("/detokenize", {"model": opening.body["model"], "tokens": ids[-16:]})
            return str(shown["prompt"]) if isinstance(shown, dict) and "prompt" in shown else None
        return await _prompt_text(server, opening.body) if self.route == "text" else None

    async def tokenize(self, server: Server, model: str, text: str) -> tuple[int, ...]:
        """Ask the server's tokenizer, if it shows one."""
        if self.route != "tokens":
            return ()
        asked = {"model": model, "prompt": text, "add_special_tokens": False}
        return _ids(await server.call("/tokenize", asked))


_RENDERED = ("model", "messages", "tools", "chat_template", "chat_template_kwargs", "reasoning_effort")


async def _answers(asking: Awaitable[object]) -> bool:
    try:
        await asking
    except UpstreamError:
        return False
    return True


async def _prompt_ids(server: Server, body: Mapping[str, Any]) -> list[int]:
    """Tokens of a conversation as the model reads it."""
    asked = {name: body[name] for name in _RENDERED if body.get(name) is not None}
    return list(_ids(await server.call("/tokenize", {**asked, "add_generation_prompt": True})))


async def _prompt_text(server: Server, body: Mapping[str, Any]) -> str:
    """A conversation as the model reads it."""
    shown = await server.call("/apply-template", body)
    if not isinstance(shown, dict) or not isinstance(shown.get("prompt"), str):
        raise UpstreamError("The server does not show the rendered prompt.")
    return str(shown["prompt"])


def _ids(answer: Any) -> tuple[int, ...]:
    found = answer.get("tokens") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not found or not all(isinstance(number, int) for number in found):
        raise UpstreamError("The server does not show token ids.")
    return tuple(found)
