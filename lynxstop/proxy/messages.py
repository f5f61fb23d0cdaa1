"""POST /v1/messages: Anthropic's protocol, with blocks of thinking."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lynxstop.proxy.chat_request import ChatRequest
from lynxstop.proxy.failures import MESSAGES, by_status
from lynxstop.proxy.message_tools import given, parsed, tools_of, turns_of, uses_tools
from lynxstop.proxy.tool_calls import CallPiece, CallReader, whole
from lynxstop.proxy.translated import TranslatedHandler, Writer
from lynxstop.remote.http.connection import RefusedError

Json = dict[str, Any]

LEAST_BUDGET = 1024
"""Smallest `budget_tokens` of the protocol."""

QUIET = 64
"""Pieces of hidden thinking after which a client gets a ping."""

_KNOWN = frozenset(
    {
        "model", "messages", "max_tokens", "system", "temperature", "top_p", "top_k", "stop_sequences",
        "stream", "thinking", "metadata", "seed", "vllm_xargs", "tools", "tool_choice", "output_config",
    }
)  # fmt: skip
_SAME = ("model", "max_tokens", "temperature", "top_p", "top_k", "stream", "seed", "vllm_xargs")
_TEXT = frozenset({"type", "text", "cache_control"})
_CALLED = ("tool_calls", "function_call")
_THINKING = ("thinking", "redacted_thinking")


class MessagesHandler(TranslatedHandler):
    """Answers requests of Anthropic's protocol."""

    route = MESSAGES

    def translate(self, body: Json) -> Json | str:
        """Return the chat request that means the same; a cause, when there is none."""
        return to_chat(body)

    def writer(self, request: ChatRequest) -> Writer:
        """Return what writes one answer.

        Servers that have the route show thinking whether it was asked for or not; Anthropic does not.
        """
        return MessageWriter(bool(self._offered) or shows_thinking(request.body))

    def _effort(self, body: Json) -> Mapping[str, Any]:
        """Return a body that names its reasoning effort as chats do."""
        config = body.get("output_config")
        return {**body, "reasoning_effort": config.get("effort")} if isinstance(config, dict) else body

    def refusal(self, error: RefusedError) -> Json:
        """Return a refusal of the server in Anthropic's shape."""
        return by_status(error.status_code, error.said["message"] if error.said else error.message)


def to_chat(body: Mapping[str, Any]) -> Json | str:
    """Translate a request into a chat's.

    Thinking of earlier turns is left out, as the protocol says. A key whose value is null is absent.
    `budget_tokens` becomes `thinking_token_budget`, as vLLM calls it.

    Returns
    -------
    dict or str
        The chat request; a cause, when none means the same.
    """
    if any(body[name] not in (None, []) for name in set(body) - _KNOWN):
        return "parameters"
    options = _options(body)
    if isinstance(options, str):
        return options
    if (tools := tools_of(body)) is None:
        return "tools"
    system = _text(body.get("system") or "", ())
    turns = body.get("messages")
    if system is None or not isinstance(turns, list) or not turns:
        return "malformed" if system is not None else "blocks"
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("role") not in ("user", "assistant"):
            return "malformed"
        said = _messages(turn["role"], turn.get("content"))
        if said is None:
            return "blocks"
        messages += said
    if not messages or messages[-1]["role"] == "assistant":
        return "continued_message"
    chat = {name: body[name] for name in _SAME if body.get(name) is not None}
    if body.get("stop_sequences"):
        chat["stop"] = body["stop_sequences"]
    return {**chat, **options, **tools, "messages": messages}


def _options(body: Mapping[str, Any]) -> Json | str:
    """Return a chat's parameters for `thinking` and `output_config`; a cause, when there are none.

    A budget that the protocol does not allow is the server's to refuse.
    """
    thinking, config = body.get("thinking") or {}, body.get("output_config") or {}
    if not isinstance(thinking, dict) or not isinstance(config, dict):
        return "malformed"
    config, chat = given(config), {}
    if thinking.get("type", "enabled") not in ("enabled", "adaptive"):
        return "thinking_hidden"
    if config.keys() - {"effort"}:
        return "structured_output"
    budget, most = thinking.get("budget_tokens"), body.get("max_tokens")
    if budget is not None and thinking.get("type") != "adaptive":
        if type(budget) is not int or budget < LEAST_BUDGET or (type(most) is int and budget >= most):
            return "malformed"
        chat["thinking_token_budget"] = budget
    if "effort" in config:
        chat["reasoning_effort"] = config["effort"]
    return chat


def shows_thinking(body: Mapping[str, Any]) -> bool:
    """Say whether a client gets blocks of thinking: when it has asked for them."""
    return bool(body.get("thinking"))


class MessageWriter:
    """Writes one message.

    Parameters
    ----------
    thinking : bool
        Whether the client gets the thinking.
    """

    def __init__(self, thinking: bool) -> None:
        self._shows = thinking
        self._message: Json = {}
        self._blocks: list[Json] = []
        self._quiet = 0
        self._reader = CallReader()
        self._calls: dict[int, int] = {}
        self._arguments: dict[int, str] = {}
        self._open: list[int] = []

    def begin(self, event: Json, prompt_tokens: int) -> Iterator[Json]:
        """Write the head of the message."""
        self._message = {
            "id": f"msg_{event.get('id', '')}",
            "type": "message",
            "role": "assistant",
            "model": event.get("model", ""),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": prompt_tokens, "output_tokens": 0},
        }
        yield {"type": "message_start", "message": self._message}
        yield {"type": "ping"}

    def text(self, text: str, *, thinking: bool) -> Iterator[Json]:
        """Write a piece of a block; the first opens it, and closes the one before."""
        if thinking and not self._shows:
            self._quiet += 1
            if self._quiet % QUIET == 0:
                yield {"type": "ping"}
            return
        kind = "thinking" if thinking else "text"
        for piece in self._reader.end():
            yield from self._call(piece)
        if not self._blocks or self._blocks[-1]["type"] != kind:
            yield from self._close()
            yield self._start({"type": kind, kind: ""} | ({"signature": ""} if thinking else {}))
        self._blocks[-1][kind] += text
        yield self._delta(len(self._blocks) - 1, {"type": f"{kind}_delta", kind: text})

    def calls(self, delta: Json) -> Iterator[Json]:
        """Write the pieces of calls: a block for each call, its arguments as they come."""
        for piece in self._reader.read(delta):
            yield from self._call(piece)

    def _call(self, piece: CallPiece) -> Iterator[Json]:
        if piece.opens:
            # One whose arguments are not whole may go on after the next has begun.
            yield from self._close(unless=lambda place: not whole(self._arguments.get(place, "{}")))
            self._calls[piece.number] = place = len(self._blocks)
            self._arguments[place] = ""
            yield self._start({"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}})
        place = self._calls[piece.number]
        if piece.arguments:
            self._arguments[place] += piece.arguments
            yield self._delta(place, {"type": "input_json_delta", "partial_json": piece.arguments})

    def end(self, choice: Json, usage: Json, report: Json | None) -> Iterator[Json]:
        """Close the last block, and tell why the message ended and what it used."""
        for piece in self._reader.end():
            yield from self._call(piece)
        if not self._blocks:
            yield from self.text("", thinking=False)
        yield from self._close()
        stop, stopped = choice.get("stop_reason"), {"stop_reason": "end_turn", "stop_sequence": None}
        if choice["finish_reason"] == "length":
            stopped["stop_reason"] = "max_tokens"
        elif choice["finish_reason"] == "content_filter":
            stopped["stop_reason"] = "refusal"
        elif choice["finish_reason"] in _CALLED or self._blocks[-1]["type"] == "tool_use":
            stopped["stop_reason"] = "tool_use"
        elif isinstance(stop, str):
            stopped = {"stop_reason": "stop_sequence", "stop_sequence": stop}
        used = {
            "input_tokens": usage.get("prompt_tokens") or 0,
            "output_tokens": usage.get("completion_tokens") or 0,
        }
        more = {} if report is None else {"lynxstop": report}
        self._message |= {"content": self._blocks, **stopped, "usage": used, **more}
        yield {"type": "message_delta", "delta": stopped, "usage": used, **more}
        yield {"type": "message_stop"}

    def whole(self) -> Json:
        """Return the message."""
        return self._message

    def _start(self, block: Json) -> Json:
        self._open.append(place := len(self._blocks))
        self._blocks.append(block)
        return {"type": "content_block_start", "index": place, "content_block": {**block}}

    def _delta(self, place: int, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": place, "delta": delta}

    def _close(self, unless: Callable[[int], bool] = lambda place: False) -> Iterator[Json]:
        """Close the open blocks, except those that are to stay open."""
        closing = [place for place in self._open if not unless(place)]
        self._open = [place for place in self._open if place not in closing]
        for place in closing:
            block = self._blocks[place]
            if block["type"] == "thinking":
                # Clients want one, and nothing here checks it: a digest of what it stands for.
                said = block["thinking"].encode(errors="surrogatepass")
                block["signature"] = hashlib.sha256(said).hexdigest()
                yield self._delta(place, {"type": "signature_delta", "signature": block["signature"]})
            elif block["type"] == "tool_use":
                block["input"] = parsed(self._arguments[place])
            yield {"type": "content_block_stop", "index": place}


def _messages(role: str, content: Any) -> list[Json] | None:
    """Return a turn as messages of a chat; None where it has more than text, calls and results."""
    if uses_tools(content):
        return turns_of(role, content)
    text = _text(content, _THINKING if role == "assistant" else ())
    return None if text is None else [{"role": role, "content": text}]


def _text(content: Any, dropped: tuple[str, ...]) -> str | None:
    """Return a content that is nothing but text; None, when it is something else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        return None
    kept = [block for block in content if block.get("type") not in dropped]
    if any(block.get("type") != "text" or given(block).keys() - _TEXT for block in kept):
        return None
    return "\n".join(str(block.get("text") or "") for block in kept)
