"""llama.cpp's server: the template is rendered on request, and completions take the text."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lynxstop.errors import UpstreamError
from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import (
    CHAT,
    AnswerLimits,
    Call,
    Dialect,
    Kept,
    Opening,
    ServerFacts,
    joined,
)
from lynxstop.remote.dialects.chat import ChatDialect
from lynxstop.remote.dialects.reading import chat_tokens, read_chat
from lynxstop.remote.events import Reading
from lynxstop.remote.http.connection import RefusedError
from lynxstop.remote.server import Server
from lynxstop.remote.tokens import StreamToken

_OF_A_CHAT = frozenset(
    {
        "messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "chat_template_kwargs",
        "reasoning_format", "reasoning_effort", "reasoning_control", "reasoning_budget_message",
        "reasoning_budget_tokens", "thinking_budget_tokens", "enable_thinking", "logprobs", "top_logprobs",
        "max_tokens", "max_completion_tokens", "n_predict", "stream", "stream_options", "n_probs",
    }
)  # fmt: skip
"""Parameters that a completion does not have, or that are set below; all others belong to the sampler."""

_CONTROL = "/v1/chat/completions/control"
_PROBED = 256
_TRIES = 3
"""Tokens of a chat that is asked to end its thinking, and how many such chats are tried."""


class LlamaCpp(ChatDialect):
    """Tested with llama.cpp of llama-cpp-python 0.3.36.

    The first piece of thinking repeats the end of the rendered prompt, and delimiters that the server's
    parser takes out have no event. So a continuation is written as text: the prompt as `/apply-template`
    renders it, without what the stream repeats of it, and then all that was streamed. Token ids would not
    do: text that the server holds back comes with the id of its last token only.

    Parameters
    ----------
    in_place : bool
        Whether thinking can be ended within the running request.
    """

    name = "llamacpp"
    facts = ServerFacts(
        owner="llamacpp",
        sign=("/props", "default_generation_settings"),
        version=("/props", "build_info"),
        counters=("llamacpp:requests_processing", "llamacpp:tokens_predicted_total"),
        completion_limit=None,
        thinking_budget="thinking_budget_tokens",
        empty_content="",
    )
    describes = "/v1/completions from text"
    neutral: Mapping[str, Any] = MappingProxyType({"top_k": 0, "min_p": 0.0})

    def __init__(self, *, in_place: bool = False) -> None:
        self.in_place = in_place

    async def prioritised(self, server: Server, model: str) -> Dialect:
        """Find out whether thinking can be ended in place: a short chat is asked to end its own."""
        question = {"role": "user", "content": "What is 17 + 25? Think, then answer."}
        chat = {"model": model, "messages": [question], "temperature": 0, "max_tokens": _PROBED}
        body = {**super().watched(chat), "reasoning_control": True}
        for _ in range(_TRIES):
            # A fast server may have ended by itself before it is asked.
            if (ended := await self._ends(server, body)) is not None:
                return LlamaCpp(in_place=ended)
        return self

    async def _ends(self, server: Server, body: Json) -> bool | None:
        """Say whether a chat ends its thinking when it is asked to; None when it had ended before."""
        told: bool | None = None
        answered = ""
        reading = Reading(self.read)
        async with server.events(CHAT, body) as arriving:
            async for event, delta in reading.all(arriving):
                if delta.thinking and told is None:
                    told = await self.end_thinking(server, str(event.get("id")))
                    if told is False and not await self._has_control(server):
                        return False
                answered += delta.content
        return bool(answered.strip()) if told else None

    async def _has_control(self, server: Server) -> bool:
        try:
            await server.call(_CONTROL, {"id": "", "action": "reasoning_end"})
        except RefusedError as error:
            return error.status not in (404, 405, 501)
        return True

    async def end_thinking(self, server: Server, id: str) -> bool:
        """Use the route for control of llama.cpp's builds since June 2026."""
        try:
            found = await server.call(_CONTROL, {"id": id, "action": "reasoning_end"})
        except UpstreamError:
            return False
        return isinstance(found, dict) and found.get("success") is True

    def watched(self, body: Mapping[str, Any]) -> Json:
        """Ask for log-probabilities, and that thinking can be ended in place."""
        return super().watched(body) | ({"reasoning_control": True} if self.in_place else {})

    def read(self, event: Json) -> Delta:
        """Read one event of a chat stream; text without a token of its own goes to the first token."""
        delta = read_chat(event)
        text = (delta.thinking + delta.content).encode()
        shown = b"".join(token.text for token in delta.tokens)
        if not delta.tokens or text == shown or not text.endswith(shown):
            return delta
        first, *rest = delta.tokens
        whole = StreamToken(text[: len(text) - len(shown)] + first.text, first.logprob, first.top)
        return delta._replace(tokens=[whole, *rest])

    async def prompt_end(self, server: Server, opening: Opening) -> str | None:
        """Return the whole rendered prompt."""
        if opening.prompt_text is None:
            rendered = await server.call("/apply-template", opening.body)
            opening.prompt_text = rendered.get("prompt") if isinstance(rendered, dict) else None
        return opening.prompt_text

    async def continuation(self, server: Server, opening: Opening, kept: Kept, limits: AnswerLimits) -> Call:
        """Continue from text."""
        prompt = await self.prompt_end(server, opening)
        if not prompt:
            raise UpstreamError("The server does not show the rendered prompt that a continuation needs.")
        body = {
            **{name: value for name, value in opening.body.items() if name not in _OF_A_CHAT},
            "prompt": joined(_without_repeated(prompt, kept), kept),
            "stream": True,
        }
        if limits.max_tokens is not None:
            body["max_tokens"] = limits.max_tokens
        if limits.logprobs is not None:
            # 0 switches them off here; request one where the client wants only the token's own.
            body["logprobs"] = max(1, limits.logprobs)
        return Call("/v1/completions", body)

    def read_continuation(self, event: Json) -> Delta:
        """Read one event: log-probabilities as in a chat, the end of the turn as a token without text."""
        choices = event.get("choices")
        if not choices:
            return Delta(usage=event.get("usage"))
        choice = choices[0]
        text = choice.get("text") or ""
        return Delta(
            content=text,
            tokens=[token for token in chat_tokens(choice, text) if token.text] if text else (),
            finish=choice.get("finish_reason"),
            usage=event.get("usage"),
        )

    async def tokenize(self, server: Server, model: str, text: str) -> tuple[int, ...]:
        """Ask the server's tokenizer."""
        asked = {"content": text, "add_special": False, "parse_special": True}
        return tuple((await server.call("/tokenize", asked))["tokens"])

    def clean(self, event: Json, body: Mapping[str, Any]) -> None:
        """Remove log-probabilities, which this server omits unless they are requested."""
        if not body.get("logprobs"):
            for choice in event.get("choices") or ():
                choice.pop("logprobs", None)


def _without_repeated(prompt: str, kept: Kept) -> str:
    """Remove from the end of a prompt what the stream repeats of it: the template's own opening."""
    bare = prompt.rstrip()
    if not bare.endswith(kept.open):
        return prompt
    blanks, opened = prompt[len(bare) :], prompt[len(bare) - len(kept.open) :]
    if kept.text.startswith(opened):
        return prompt.removesuffix(opened)
    return prompt.removesuffix(blanks) if blanks and kept.text.startswith(blanks) else prompt
