"""Tools of Anthropic's protocol as chats have them: their list, calls and results; and back as blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

_TOOL = frozenset({"name", "description", "input_schema", "cache_control", "type", "strict"})
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_RESULT = frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})


def tools_of(body: Mapping[str, Any]) -> Json | None:
    """Return the parameters of a chat that has a request's tools; None when chats cannot express them.

    Tools that the server itself would run, such as web search, have no counterpart.
    """
    tools, choice = body.get("tools") or [], body.get("tool_choice") or {}
    if not isinstance(tools, list) or not isinstance(choice, dict):
        return None
    if not tools:
        return {} if not choice else None
    made = [_tool(tool) for tool in tools]
    if any(tool is None for tool in made):
        return None
    found: Json = {"tools": made}
    kind, name = choice.get("type"), choice.get("name")
    if kind == "tool" and isinstance(name, str):
        found["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif isinstance(kind, str) and kind in _CHOICES:
        found["tool_choice"] = _CHOICES[kind]
    elif choice:
        return None
    if choice.get("disable_parallel_tool_use"):
        found["parallel_tool_calls"] = False
    return found


def given(block: Mapping[str, Any]) -> Json:
    """Return the keys that are set: SDKs write null into those that are not."""
    return {name: value for name, value in block.items() if value is not None}


def uses_tools(content: Any) -> bool:
    """Whether a turn has calls or results among its blocks."""
    return isinstance(content, list) and any(
        isinstance(block, dict) and block.get("type") in ("tool_use", "tool_result") for block in content
    )


def turns_of(role: str, content: Sequence[Any]) -> list[Json] | None:
    """Return the messages of a chat that say what a turn with calls or results says; None if none do.

    The thinking that led to calls is kept: templates write it until the user speaks again.
    """
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    results: list[Json] = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif role == "assistant" and kind == "thinking":
            thoughts.append(str(block.get("thinking") or ""))
        elif role == "assistant" and kind == "tool_use" and isinstance(block.get("name"), str):
            calls.append(_call(block))
        elif role == "user" and kind == "tool_result" and not set(given(block)) - _RESULT:
            said = _plain(block.get("content"))
            if said is None:
                return None
            results.append({"role": "tool", "tool_call_id": str(block.get("tool_use_id")), "content": said})
        elif not (role == "assistant" and kind == "redacted_thinking"):
            return None
    text = "\n".join(texts)
    if role == "user":
        return [*results, {"role": "user", "content": text}] if texts else results
    message: Json = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message |= {"reasoning": "".join(thoughts), "reasoning_content": "".join(thoughts)}
    return [message]


def parsed(arguments: str) -> Any:
    """Return a call's whole arguments; an empty object where they are no JSON, as after a token limit."""
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return {}


def _tool(tool: Any) -> Json | None:
    if not isinstance(tool, dict) or set(given(tool)) - _TOOL or tool.get("type") not in (None, "custom"):
        return None
    if not isinstance(tool.get("name"), str) or not isinstance(tool.get("input_schema"), dict):
        return None
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    if isinstance(tool.get("strict"), bool):
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _call(block: Mapping[str, Any]) -> Json:
    function = {"name": block["name"], "arguments": json.dumps(block.get("input") or {})}
    return {"id": str(block.get("id")), "type": "function", "function": function}


def _plain(content: Any) -> str | None:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    texts = [
        block["text"]
        for block in content
        if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str)
    ]
    return "\n".join(texts) if len(texts) == len(content) else None
