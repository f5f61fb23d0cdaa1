"""POST /v1/responses: OpenAI's newer protocol, with items of reasoning."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lynxstop.proxy.chat_request import ChatRequest
from lynxstop.proxy.failures import RESPONSES
from lynxstop.proxy.response_tools import CALL, OUTPUT, add_turn, thought_of, tools_of
from lynxstop.proxy.tool_calls import CallPiece, CallReader, whole
from lynxstop.proxy.translated import TranslatedHandler, Writer
from lynxstop.remote import server_error
from lynxstop.remote.http.connection import RefusedError
from lynxstop.remote.report import with_exit

Json = dict[str, Any]

_IGNORED = frozenset(
    {
        "store",
        "metadata",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "parallel_tool_calls",
        "tool_choice",
    }
)
"""Parameters that change nothing of a text that is not kept; `store` only when it is not asked for."""

_SAME = ("model", "temperature", "top_p", "stream", "seed", "vllm_xargs")
_KNOWN = frozenset(
    {*_IGNORED, *_SAME, "input", "instructions", "max_output_tokens", "reasoning", "text", "stream_options",
     "tools"}
)  # fmt: skip
_DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "truncation": ("disabled",),
    "background": (False,),
    "include": ([], ["reasoning.encrypted_content"]),
    "service_tier": ("auto", "default"),
    "top_logprobs": (0,),
}
"""Parameters that are known when they have one of these values."""

_ECHOED = (
    "instructions",
    "max_output_tokens",
    "temperature",
    "top_p",
    "reasoning",
    "text",
    "metadata",
    "user",
)
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXTS = frozenset({"input_text", "output_text", "text"})
_REASONING, _MESSAGE = "reasoning", "message"

_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Reasons to finish that leave a response incomplete, and what it calls them."""


class ResponsesHandler(TranslatedHandler):
    """Answers requests of the protocol of responses."""

    route = RESPONSES

    def _effort(self, body: Json) -> Mapping[str, Any]:
        """Return a body that names its reasoning effort as chats do."""
        reasoning = body.get("reasoning")
        return {**body, "reasoning_effort": reasoning.get("effort")} if isinstance(reasoning, dict) else body

    def translate(self, body: Json) -> Json | str:
        """Return the chat request that means the same; a cause, when there is none."""
        return to_chat(body)

    def writer(self, request: ChatRequest) -> Writer:
        """Return what writes one answer."""
        return ResponseWriter(request.body)

    def refusal(self, error: RefusedError) -> Json:
        """Return a refusal of the server in the shape of this route."""
        said = error.said or {"message": error.message}
        return {"error": server_error.shown(said, error.status_code, error.kind)}


def to_chat(body: Mapping[str, Any]) -> Json | str:
    """Translate a request into a chat's.

    Reasoning of earlier turns is left out, unless it led to a call; what a developer says goes to the system.

    Returns
    -------
    dict or str
        The chat request; a cause, when none means the same.
    """
    given = {name: value for name, value in body.items() if value is not None}
    given = {name: value for name, value in given.items() if value not in _DEFAULTS.get(name, ())}
    if set(given) - _KNOWN:
        return "parameters"
    tools = tools_of(given)
    if tools is None:
        return "tools"
    if given.get("store"):
        return "stored"
    form, reasoning = given.get("text", {}), given.get("reasoning", {})
    if not isinstance(form, dict) or not isinstance(reasoning, dict):
        return "malformed"
    if set(form) - {"format", "verbosity"} or form.get("format") not in (None, {"type": "text"}):
        return "structured_output"
    said = given.get("input")
    items = [{"role": "user", "content": said}] if isinstance(said, str) else said
    if not isinstance(items, list) or not items:
        return "malformed"
    messages = [{"role": "system", "content": given["instructions"]}] if given.get("instructions") else []
    if not _add_turns(messages, items):
        return "items"
    if not messages or messages[-1]["role"] == "assistant":
        return "continued_message"
    chat = {name: given[name] for name in _SAME if name in given}
    if "max_output_tokens" in given:
        chat["max_tokens"] = given["max_output_tokens"]
    if effort := reasoning.get("effort"):
        chat["reasoning_effort"] = effort
    return {**chat, **tools, "messages": messages}


def _add_turns(messages: list[Json], items: Sequence[Any]) -> bool:
    """Append what items say; False where no messages of a chat say the same."""
    thought = ""
    for item in items:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == _REASONING:
            thought = thought_of(item)
        elif kind in (CALL, OUTPUT):
            if not add_turn(messages, item, thought):
                return False
            thought = ""
        elif (message := _message(item)) is not None:
            messages.append(message)
            thought = thought if message["role"] == "assistant" else ""
        else:
            return False
    return True


class ResponseWriter:
    """Writes one response.

    Parameters
    ----------
    body : dict
        The request.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self._response: Json = {}
        self._items: list[Json] = []
        self._reader = CallReader()
        self._calls: dict[int, int] = {}
        self._open: list[int] = []
        self._text = ""
        self._written = 0

    def begin(self, event: Json, prompt_tokens: int) -> Iterator[Json]:
        """Write the head of the response."""
        self._response = {
            **{name: self._body.get(name) for name in _ECHOED},
            "id": f"resp_{event.get('id', '')}",
            "object": "response",
            "created_at": event.get("created") or int(time.time()),
            "model": event.get("model", ""),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "parallel_tool_calls": False,
            "tool_choice": self._body.get("tool_choice") or "auto",
            "tools": self._body.get("tools") or [],
            "store": False,
            "usage": None,
        }
        yield self._event("response.created", response=self._response)
        yield self._event("response.in_progress", response=self._response)

    def text(self, text: str, *, thinking: bool) -> Iterator[Json]:
        """Write a piece of an item; the first opens it, and closes the one before."""
        kind = _REASONING if thinking else _MESSAGE
        for piece in self._reader.end():
            yield from self._call(piece)
        if not self._items or self._items[-1]["type"] != kind:
            yield from self._close("completed")
            yield from self._begin(kind)
        self._text += text
        yield self._at_part(f"response.{self._kind}.delta", delta=text, **self._logprobs)

    def calls(self, delta: Json) -> Iterator[Json]:
        """Write the pieces of calls: an item for each call, its arguments as they come."""
        for piece in self._reader.read(delta):
            yield from self._call(piece)

    def _call(self, piece: CallPiece) -> Iterator[Json]:
        if piece.opens:
            # One whose arguments are not whole may go on after the next has begun.
            yield from self._close("completed", unless=lambda item: not whole(item.get("arguments", "{}")))
            self._calls[piece.number] = place = len(self._items)
            item = {"id": f"fc_{place}_{self._response['id']}", "type": CALL, "call_id": piece.id}
            yield self._add({**item, "name": piece.name, "arguments": "", "status": "in_progress"})
        place = self._calls[piece.number]
        if piece.arguments:
            self._items[place]["arguments"] += piece.arguments
            yield self._at_call(place, "delta", delta=piece.arguments)

    def end(self, choice: Json, usage: Json, report: Json | None) -> Iterator[Json]:
        """Close the last item, and tell how the response ended and what it used."""
        cut = _CUT.get(str(choice["finish_reason"]))
        status = "incomplete" if cut else "completed"
        for piece in self._reader.end():
            yield from self._call(piece)
        if not self._items:
            yield from self.text("", thinking=False)
        yield from self._close(status)
        details = {"incomplete_details": {"reason": cut}} if cut else {}
        more = {} if report is None else {"lynxstop": report}
        used = _usage(with_exit(usage, report or {}))
        self._response |= {"status": status, "output": self._items, "usage": used, **details, **more}
        yield self._event(f"response.{status}", response=self._response)

    def whole(self) -> Json:
        """Return the response."""
        return self._response

    def _begin(self, kind: str) -> Iterator[Json]:
        place = len(self._items)
        item: Json = {"id": f"{kind[:2]}_{place}_{self._response['id']}", "type": kind, "content": []}
        own: Json = {"summary": []} if kind == _REASONING else {"role": "assistant"}
        item |= {**own, "status": "in_progress"}
        self._text = ""
        yield self._add(item)
        yield self._at_part("response.content_part.added", part=self._part)

    def _add(self, item: Json) -> Json:
        self._open.append(place := len(self._items))
        self._items.append(item)
        return self._event("response.output_item.added", output_index=place, item={**item})

    def _close(self, status: str, unless: Callable[[Json], bool] = lambda item: False) -> Iterator[Json]:
        """Close the open items, except those that are to stay open."""
        closing = [place for place in self._open if not unless(self._items[place])]
        self._open = [place for place in self._open if place not in closing]
        for place in closing:
            item = self._items[place]
            if item["type"] == CALL:
                yield self._at_call(place, "done", arguments=item["arguments"], name=item["name"])
            else:
                # Nothing but calls stays open while another item begins, so this is the last item.
                yield self._at_part(f"response.{self._kind}.done", text=self._text, **self._logprobs)
                yield self._at_part("response.content_part.done", part=self._part)
                item["content"] = [self._part]
            item["status"] = status
            yield self._event("response.output_item.done", output_index=place, item=item)

    @property
    def _kind(self) -> str:
        return "reasoning_text" if self._items[-1]["type"] == _REASONING else "output_text"

    @property
    def _logprobs(self) -> Json:
        return {} if self._kind == "reasoning_text" else {"logprobs": []}

    @property
    def _part(self) -> Json:
        more: Json = {} if self._kind == "reasoning_text" else {"annotations": [], "logprobs": []}
        return {"type": self._kind, "text": self._text, **more}

    def _at_part(self, name: str, **more: Any) -> Json:
        item = self._items[-1]["id"]
        return self._event(name, item_id=item, output_index=len(self._items) - 1, content_index=0, **more)

    def _at_call(self, place: int, step: str, **more: Any) -> Json:
        where = {"item_id": self._items[place]["id"], "output_index": place}
        return self._event(f"response.function_call_arguments.{step}", **where, **more)

    def _event(self, kind: str, **more: Any) -> Json:
        number, self._written = self._written, self._written + 1
        return {"type": kind, "sequence_number": number, **more}


def _message(item: Any) -> Json | None:
    """Return an item as a chat's message; None, when it is something else."""
    if not isinstance(item, dict) or (item.get("type") or _MESSAGE) != _MESSAGE:
        return None
    if not isinstance(item.get("role"), str) or item["role"] not in _ROLES:
        return None
    content = item.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and str(part.get("type")) in _TEXTS]
        if len(parts) != len(content) or any(part.get("annotations") for part in parts):
            return None
        content = "\n".join(str(part.get("text", "")) for part in parts)
    return {"role": _ROLES[item["role"]], "content": content} if isinstance(content, str) else None


def _usage(usage: Json) -> Json:
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    written = usage.get("completion_tokens_details") or {}
    exit = {name: value for name, value in written.items() if name.startswith("lynxstop_")}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": written.get("reasoning_tokens") or 0, **exit},
        "total_tokens": prompt + completion,
    }
