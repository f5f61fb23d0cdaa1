"""One answer made of the events of a stream: for clients that did not ask for a stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lynxstop.proxy.tool_calls import call_of, function_of
from lynxstop.remote.delta import REASONING_FIELDS
from lynxstop.remote.event_rewriter import entries_of

Json = dict[str, Any]

_TEXTS = ("text", "summary", "data")
"""Keys of a part whose texts come in pieces."""

_PIECES = ("arguments", "data", "transcript")
"""The same of an object, such as a call of a function, or audio."""

_OF_THE_STREAM = ("delta", "message", "index", "finish_reason", "logprobs", "stop_reason")

_NOTHING = (None, "")
"""What servers write into the keys of a call in its later pieces."""


class Assembly:
    """Joins the events of a chat into the answer that the server would have given without streaming.

    Unknown keys of an event and of a choice are kept, the last value of each; texts and lists are joined.

    Parameters
    ----------
    empty : str, optional
        What the server writes as content where there is only thinking, or calls.
    """

    def __init__(self, empty: str | None = None) -> None:
        self._empty = empty
        self._answer: Json = {}
        self._message: Json = {"role": "assistant", "content": None}
        self._choice: Json = {"index": 0, "message": self._message, "logprobs": None, "finish_reason": None}
        self._entries: list[Any] = []

    def add(self, event: Json) -> None:
        """Take in the next event; of what it says, no more is kept than the answer has."""
        self._answer.update({name: value for name, value in event.items() if name != "choices"})
        for part in event.get("choices") or ():
            _say(self._message, part.get("delta") or {})
            self._entries += entries_of(part)
            for name in ("finish_reason", "stop_reason"):
                if part.get(name) is not None:
                    self._choice[name] = part[name]
            self._choice.update({name: value for name, value in part.items() if name not in _OF_THE_STREAM})

    def whole(self) -> Json:
        """Return the answer, once all events are in."""
        message = self._message
        if message["content"] == "" and message.keys() & {*REASONING_FIELDS, "tool_calls"}:
            message["content"] = self._empty
        if self._entries:
            self._choice["logprobs"] = {"content": self._entries}
        return {**self._answer, "object": "chat.completion", "choices": [self._choice]}


def _say(message: Json, delta: Json) -> None:
    """Add what one event says to a message."""
    for name, value in delta.items():
        if name == "tool_calls" and isinstance(value, list) and value:
            _call(message.setdefault(name, []), value)
        elif name == "role":
            message[name] = value or message.get(name)
        elif value is not None:
            message[name] = _joined(message.get(name), value)


def _joined(known: Any, more: Any) -> Any:
    """Join two pieces of a value: texts, lists, objects of texts, or a text and a list of parts."""
    if isinstance(known, str) and isinstance(more, str):
        return known + more
    if isinstance(known, list) and isinstance(more, str | list):
        _extend(known, [{"type": "text", "text": more}] if more and isinstance(more, str) else more)
        return known
    if isinstance(known, str) and known and isinstance(more, list):
        return [{"type": "text", "text": known}, *more]
    if isinstance(known, dict) and isinstance(more, dict):
        pieces = {
            name: _joined(known[name], more[name]) for name in _PIECES if name in known and name in more
        }
        return {**known, **more, **pieces}
    return more


def _extend(known: list[Any], more: Iterable[Any]) -> None:
    """Add the parts of a list; what continues its last part, by type and index, is joined with that."""
    for part in more:
        last: Any = known[-1] if known else None
        if _same_part(last, part):
            last |= {
                name: last[name] + value if name in _TEXTS and isinstance(last.get(name), str) else value
                for name, value in part.items()
                if value is not None
            }
        else:
            known.append(part)


def _same_part(last: Any, part: Any) -> bool:
    if not isinstance(last, dict) or not isinstance(part, dict) or part.get("index") is None:
        return False
    return bool(last.get("index") == part["index"] and last.get("type") == part.get("type"))


def _call(calls: list[Json], parts: Iterable[Json]) -> None:
    """Add parts of tool calls: names and ids come whole, arguments in pieces."""
    for part in parts:
        if not isinstance(part, dict):
            continue
        known, said = call_of(calls, part), dict(function_of(part))
        if known is None:
            calls.append({"index": 0, **part, "function": said})
            continue
        function = known["function"]
        before, more = function.get("arguments"), said.get("arguments")
        known |= {name: value for name, value in part.items() if value not in _NOTHING and name != "function"}
        function |= {name: value for name, value in said.items() if value not in _NOTHING}
        if before is not None:
            function["arguments"] = before if more is None else _joined(before, more)
