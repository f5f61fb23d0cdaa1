"""Tools of the protocol of responses as chats have them: their list, calls and results; and back as items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lynxstop.proxy.message_tools import given

Json = dict[str, Any]

CALL, OUTPUT, REASONING = "function_call", "function_call_output", "reasoning"

_TOOL = frozenset({"type", "name", "description", "parameters", "strict"})
_CHOICES = ("auto", "none", "required")


def tools_of(body: Mapping[str, Any]) -> Json | None:
    """Return the parameters of a chat that has a request's tools; None when chats cannot express them.

    Tools that the server itself would run, such as web search, have no counterpart.
    """
    tools, choice = body.get("tools"), body.get("tool_choice", "auto")
    if not tools:
        return {}
    if not isinstance(tools, list) or not all(_is_function(tool) for tool in tools):
        return None
    made = [
        {"type": "function", "function": {name: tool[name] for name in given(tool) if name != "type"}}
        for tool in tools
    ]
    found: Json = {"tools": made}
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("name"), str):
        found["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif choice in _CHOICES:
        found["tool_choice"] = choice
    else:
        return None
    if isinstance(body.get("parallel_tool_calls"), bool):
        found["parallel_tool_calls"] = body["parallel_tool_calls"]
    return found


def add_turn(messages: list[Json], item: Mapping[str, Any], thought: str) -> bool:
    """Append what a call or a result says to a chat's messages; False where none says the same.

    Parameters
    ----------
    messages : list of dict
        So far. Calls in a row are one message, as is a text with the calls after it.
    item : mapping
    thought : str
        What led to the call: templates write it until the user speaks again.
    """
    if item["type"] == OUTPUT:
        said = item.get("output")
        if isinstance(said, list):
            parts = [part.get("text") for part in said if isinstance(part, dict)]
            if len(parts) != len(said) or not all(isinstance(part, str) for part in parts):
                return False
            said = "\n".join(map(str, parts))
        called = {call["id"] for message in messages for call in message.get("tool_calls", ())}
        if not isinstance(said, str) or str(item.get("call_id")) not in called:
            return False
        messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": said})
        return True
    name, arguments, number = (item.get(key) for key in ("name", "arguments", "call_id"))
    if not (isinstance(name, str) and isinstance(arguments, str) and isinstance(number, str)):
        return False
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    call = {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}
    messages[-1].setdefault("tool_calls", []).append(call)
    if thought:
        messages[-1] |= {"reasoning": thought, "reasoning_content": thought}
    return True


def thought_of(item: Mapping[str, Any]) -> str:
    """Return the text of an item of reasoning; empty where it is kept from us."""
    parts = item.get("content")
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "".join(text for text in texts if isinstance(text, str))


def _is_function(tool: Any) -> bool:
    named = isinstance(tool, dict) and tool.get("type") == "function" and isinstance(tool.get("name"), str)
    return named and not set(given(tool)) - _TOOL
