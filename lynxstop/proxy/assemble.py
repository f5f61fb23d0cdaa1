"""One answer made of the events of a stream: for clients that did not ask for a stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lynxstop.remote.delta import REASONING_FIELDS

Json = dict[str, Any]

_TEXTS = ("text", "summary", "data")
"""Keys of a part whose texts come in pieces."""

_OF_THE_STREAM = ("delta", "index", "finish_reason", "logprobs", "stop_reason")


def assemble(events: Iterable[Json], empty: str | None = None) -> Json:
    """Join the events of a chat into the answer that the server would have given without streaming.

    Unknown keys of an event and of a choice are kept, the last value of each; texts and lists are joined.

    Parameters
    ----------
    events : iterable of dict
    empty : str, optional
        What the server writes as content where there is only thinking, or calls.
    """
    answer: Json = {}
    message: Json = {"role": "assistant", "content": None}
    choice: Json = {"index": 0, "message": message, "logprobs": None, "finish_reason": None}
    entries: list[Any] = []
    for event in events:
        answer.update({name: value for name, value in event.items() if name != "choices"})
        for part in event.get("choices") or ():
            _say(message, part.get("delta") or {})
            if part.get("logprobs"):
                entries += part["logprobs"].get("content") or ()
            for name in ("finish_reason", "stop_reason"):
                if part.get(name) is not None:
                    choice[name] = part[name]
            choice.update({name: value for name, value in part.items() if name not in _OF_THE_STREAM})
    if message["content"] == "" and message.keys() & {*REASONING_FIELDS, "tool_calls"}:
        message["content"] = empty
    if entries:
        choice["logprobs"] = {"content": entries}
    return {**answer, "object": "chat.completion", "choices": [choice]}


def _say(message: Json, delta: Json) -> None:
    """Add what one event says to a message."""
    for name, value in delta.items():
        if isinstance(value, str) and isinstance(message.get(name), str) and name != "role":
            message[name] += value
        elif name == "tool_calls" and value:
            _call(message.setdefault(name, []), value)
        elif isinstance(value, list) and isinstance(message.get(name), list):
            _extend(message[name], value)
        elif value is not None:
            message[name] = value


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
    """Add parts of tool calls: names come whole, arguments in pieces."""
    for part in parts:
        known = next((call for call in calls if call["index"] == part.get("index", 0)), None)
        if known is None:
            calls.append({"index": 0, **part, "function": dict(part.get("function") or {})})
            continue
        said = part.get("function") or {}
        known["function"]["arguments"] = known["function"].get("arguments", "") + said.get("arguments", "")
