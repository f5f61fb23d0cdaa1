"""One answer made of the events of a stream: for clients that did not ask for a stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

_OF_THE_STREAM = ("delta", "index", "finish_reason", "logprobs", "stop_reason")


def assemble(events: Iterable[Json]) -> Json:
    """Join the events of a chat into the answer that the server would have given without streaming.

    Unknown keys of an event and of a choice are kept, the last value of each.
    """
    answer: Json = {}
    message: Json = {"role": "assistant", "content": None}
    choice: Json = {"index": 0, "message": message, "logprobs": None, "finish_reason": None}
    entries: list[Any] = []
    for event in events:
        answer.update({name: value for name, value in event.items() if name != "choices"})
        for part in event.get("choices") or ():
            for name, value in (part.get("delta") or {}).items():
                if isinstance(value, str) and isinstance(message.get(name), str) and name != "role":
                    message[name] += value
                elif name == "tool_calls" and value:
                    _call(message.setdefault(name, []), value)
                elif value is not None:
                    message[name] = value
            if part.get("logprobs"):
                entries += part["logprobs"].get("content") or ()
            for name in ("finish_reason", "stop_reason"):
                if part.get(name) is not None:
                    choice[name] = part[name]
            choice.update({name: value for name, value in part.items() if name not in _OF_THE_STREAM})
    if entries:
        choice["logprobs"] = {"content": entries}
    return {**answer, "object": "chat.completion", "choices": [choice]}


def _call(calls: list[Json], parts: Iterable[Json]) -> None:
    """Add parts of tool calls: names come whole, arguments in pieces."""
    for part in parts:
        known = next((call for call in calls if call["index"] == part.get("index", 0)), None)
        if known is None:
            calls.append({"index": 0, **part, "function": dict(part.get("function") or {})})
            continue
        said = part.get("function") or {}
        known["function"]["arguments"] = known["function"].get("arguments", "") + said.get("arguments", "")
