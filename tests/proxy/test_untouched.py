"""Which requests are left alone: by the first cause that holds, for any JSON that a client may send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core import no_exit
from lynxstop.proxy.untouched import _CAUSES, why_untouched

NAMES = [
    "messages", "stream_options", "response_format", "n", "tools", "tool_choice", "max_tokens", "logprobs",
    "top_logprobs", "presence_penalty", "repeat_penalty", "grammar", "min_tokens", "echo", "n_predict",
    "stop", "max_completion_tokens", "add_generation_prompt", "include_reasoning", "functions", "mirostat",
]  # fmt: skip
SIMPLE = st.none() | st.booleans() | st.integers(-2, 30) | st.floats(allow_nan=False) | st.text(max_size=4)
JSON = st.recursive(
    SIMPLE,
    lambda part: st.lists(part, max_size=2) | st.dictionaries(st.sampled_from(["type", "content"]), part),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_body_has_an_answer(body: dict[str, Any]) -> None:
    assert why_untouched(body, "\n</think>") in (None, *_CAUSES, *no_exit.SETTINGS)


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({}, None),
        ({"stream_options": 5}, "malformed"),
        ({"response_format": "json"}, "malformed"),
        ({"max_tokens": 5.0}, "malformed"),
        ({"logprobs": "yes"}, "malformed"),
        ({"n": 1, "stream_options": {"include_usage": True}, "response_format": {"type": "text"}}, None),
        ({"logprobs": True, "top_logprobs": 20}, None),
        ({"logprobs": True, "top_logprobs": 21}, "alternatives"),
        ({"logprobs": True, "top_logprobs": -1}, "alternatives"),
        ({"logprobs": 21}, "alternatives"),
        ({"return_tokens_as_token_ids": True}, "token_ids"),
        ({"return_token_ids": True}, "token_ids"),
        ({"return_token_ids": False}, None),
        (
            {"repetition_penalty": 1.0, "repeat_penalty": 1, "presence_penalty": 0, "dry_multiplier": 0.0},
            None,
        ),
        ({"repeat_penalty": 1.1}, "penalties"),
        ({"presence_penalty": 0.1}, "penalties"),
        ({"dry_multiplier": 0.8}, "penalties"),
        ({"mirostat": 2}, "penalties"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"tools": [{}], "tool_choice": "none"}, None),
        ({"tools": [{}]}, "tools"),
        ({"functions": [{}]}, "tools"),
        ({"continue_final_message": True}, "continued_message"),
        ({"add_generation_prompt": False}, "continued_message"),
        ({"stream_options": {"continuous_usage_stats": True}}, "usage_in_every_event"),
        ({"echo": True}, "echo"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"include_reasoning": False}, "thinking_hidden"),
        ({"use_beam_search": True}, "several_choices"),
        ({"n": 2, "stream_options": 5}, "malformed"),
    ],
)
def test_the_first_cause_is_reported(more: dict[str, Any], cause: str | None) -> None:
    assert why_untouched({"messages": [{"role": "user", "content": "a"}], **more}) == cause
