"""Answer after an exit by the same chat route, so that the server's parsers and grammars write the answer.

A continuation from text or token ids comes as plain text. A tool call would be text then, and nothing would
hold an answer to a schema. So the chat is asked for again, with one more message: the assistant's, which has
the kept thinking, closed, and is to be continued. All else in the request stays as the client sent it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import (
    CHAT,
    AnswerLimits,
    Call,
    Dialect,
    Kept,
    Opening,
    hurried,
    resumed_message,
    written_again,
)
from lynxstop.remote.dialects.reading import read_chat
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.server import Server
from lynxstop.remote.thinking_splitter import split_at_close

Form = Literal["reasoning", "content"]
"""Where the message has its thinking: in fields of its own, which the template closes, or in the text."""

GRAMMARS = (
    "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar",
    "json_schema", "regex", "ebnf",
)  # fmt: skip
"""Parameters that hold an answer to a form, besides `response_format`."""

_FORMS: tuple[tuple[Form, str], ...] = (
    ("reasoning", ""), ("content", ""), ("content", "{open}"), ("content", "{open}\n"),
)  # fmt: skip

_CALLS = (
    ("<tool_call>", "</tool_call>"),
    ("<function=", "</function>"),
    ("<function_call>", "</function_call>"),
    ("<|tool_call_begin|>", "<|tool_call_end|>"),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ("<minimax:tool_call>", "</minimax:tool_call>"),
    ("<|python_tag|>", "<|eom_id|>"),
)
"""How models begin and end a call, where a server leaves it in the text."""


def ways(dialect: Dialect, close: Sequence[str], need: frozenset[str]) -> list[Dialect]:
    """Return the ways in which a server might answer a request after an exit, the best first.

    Parameters
    ----------
    dialect : Dialect
        Of the server.
    close : sequence of str
        Texts that close a thinking block.
    need : frozenset of str
        What the request has that plain text does not do for: "tools", "structured_output", "media"; and
        "tool_turns" where its messages have calls and their results.
    """
    found: list[Dialect] = [ChatRoute(dialect, form, lead, close) for form, lead in _FORMS]
    if isinstance(dialect, Vllm) and "structured_output" in need and not need & {"tools", "media"}:
        found.insert(0, GrammarFromTokens(prioritises=dialect.prioritises))
    return found


def inside_call(text: str) -> bool:
    """Say whether a text ends inside a tool call that it shows as text."""
    return any(text.rfind(begin) > text.rfind(end) for begin, end in _CALLS)


class ChatRoute:
    """Continues an answer by the chat route; the rest is done as the server's own dialect does it.

    Parameters
    ----------
    dialect : Dialect
    form : str
    lead : str
        Put before the thinking in the form "content"; see `lynxstop.remote.dialects.base.written_again`.
    close : sequence of str
        Texts that close a thinking block.
    """

    def __init__(self, dialect: Dialect, form: Form, lead: str, close: Sequence[str]) -> None:
        self.name, self.facts, self.exact = dialect.name, dialect.facts, False
        self.neutral, self.prioritises = dialect.neutral, dialect.prioritises
        self.in_place = dialect.in_place
        self.form, self.lead = form, lead
        self.describes = f"the chat route, thinking as {form}" + (f" after {lead!r}" if lead else "")
        self._dialect, self._close = dialect, close

    async def routes(self, server: Server, model: str) -> Sequence[Dialect]:
        """This one; others are found by `ways`."""
        return (self,)

    async def has_plugin(self, server: Server) -> bool:
        """Whether lynxstop runs inside the server's engine."""
        return await self._dialect.has_plugin(server)

    async def prioritised(self, server: Server, model: str) -> Dialect:
        """The same way, with the dialect that knows whether the server schedules by priority."""
        return ChatRoute(await self._dialect.prioritised(server, model), self.form, self.lead, self._close)

    def watched(self, body: Mapping[str, Any]) -> Json:
        """Ask for what the server's dialect asks for."""
        return self._dialect.watched(body)

    async def opening(self, server: Server, body: Mapping[str, Any]) -> Opening:
        """Find out what the server's dialect finds out."""
        return await self._dialect.opening(server, body)

    def read(self, event: Json) -> Delta:
        """Read one event of a chat stream."""
        return self._dialect.read(event)

    async def continuation(self, server: Server, opening: Opening, kept: Kept, limits: AnswerLimits) -> Call:
        """Ask for the same chat again, with what was kept of the answer as its last message."""
        body = resumed_message(opening.body, self._message(kept), limits) | hurried(self, opening.body)
        body["stream_options"] = {**(opening.body.get("stream_options") or {}), "include_usage": True}
        if limits.max_tokens is not None and opening.body.get("max_completion_tokens") is not None:
            body["max_completion_tokens"] = body.pop("max_tokens")
        return Call(CHAT, body, whole=True)

    def read_continuation(self, event: Json) -> Delta:
        """Read one event of the second chat."""
        return read_chat(event)

    async def end_thinking(self, server: Server, id: str) -> bool:
        """Tell the server to end the thinking in place, as its dialect does."""
        return await self._dialect.end_thinking(server, id)

    async def prompt_end(self, server: Server, opening: Opening) -> str | None:
        """The end of the rendered prompt, as the server's dialect finds it."""
        return await self._dialect.prompt_end(server, opening)

    async def tokenize(self, server: Server, model: str, text: str) -> tuple[int, ...]:
        """Token ids of a text in the server's vocabulary."""
        return await self._dialect.tokenize(server, model, text)

    def clean(self, event: Json, body: Mapping[str, Any]) -> None:
        """Remove from an event what only `watched` requested."""
        self._dialect.clean(event, body)

    def _message(self, kept: Kept) -> Json:
        if self.form == "content":
            return {"content": written_again(kept, self.lead)}
        thinking, answer = split_at_close(kept.text + kept.exit_text, self._close) or (kept.text, "")
        thinking = thinking.lstrip().removeprefix(kept.open).strip("\n")
        # Servers know the field by one of two names.
        return {"content": answer.lstrip("\n"), "reasoning": thinking, "reasoning_content": thinking}


class GrammarFromTokens(Vllm):
    """Continues from token ids, with the chat's grammar: vLLM applies it once a prompt has closed thinking.

    No template is involved, so this works with those that drop thinking from earlier messages too.
    """

    describes = "/v1/completions from token ids, with the grammar"

    async def continuation(self, server: Server, opening: Opening, kept: Kept, limits: AnswerLimits) -> Call:
        """Continue from token ids."""
        call = await super().continuation(server, opening, kept, limits)
        names = ("response_format", *GRAMMARS)
        asked = {name: opening.body[name] for name in names if opening.body.get(name) is not None}
        return Call(call.path, {**call.body, **asked}, call.forced)
