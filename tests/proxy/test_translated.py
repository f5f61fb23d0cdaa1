"""Translations of requests: any JSON gives a chat or a cause, and a chat says only what was said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.proxy import messages, responses

TEXT = st.sampled_from(
    ["", "text", "message", "user", "assistant", "reasoning", "input_text", "auto", "tool_use", "tool_result"]
)
SIMPLE = st.none() | st.booleans() | st.integers(-1, 3) | TEXT
NAMES = st.sampled_from(
    ["type", "text", "content", "role", "effort", "format", "thinking", "name", "input_schema"]
)
JSON = st.recursive(
    SIMPLE, lambda part: st.lists(part, max_size=3) | st.dictionaries(NAMES, part), max_leaves=8
)
KEYS: dict[Callable[[Any], Any], tuple[str, ...]] = {
    messages.to_chat: (
        "messages",
        "system",
        "thinking",
        "stop_sequences",
        "tools",
        "tool_choice",
        "max_tokens",
        "top_k",
    ),
    responses.to_chat: (
        "input",
        "instructions",
        "text",
        "reasoning",
        "store",
        "tools",
        "include",
        "truncation",
    ),
}


@pytest.mark.parametrize("translate", KEYS)
@given(data=st.data())
def test_any_request_gives_a_chat_or_a_cause(translate: Callable[[Any], Any], data: st.DataObject) -> None:
    body = data.draw(st.dictionaries(st.sampled_from(KEYS[translate]), JSON))
    found: Any = translate(body)
    assert isinstance(found, str | dict)
    if isinstance(found, dict):
        assert found["messages"]
        assert all(set(message) >= {"role", "content"} for message in found["messages"])
        assert found["messages"][-1]["role"] != "assistant"
        json.dumps(found)
