"""What of an exit text only closes thinking, how a kept answer is written again, and calls shown as text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lynxstop.remote.chat_route import ChatRoute, Form, GrammarFromTokens, inside_call, ways
from lynxstop.remote.dialects.base import AnswerLimits, Kept, Opening
from lynxstop.remote.dialects.openai import OpenAI
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.stream_config import StreamConfig, closing_part
from lynxstop.remote.tokens import StreamToken

CLOSE = ("</think>",)


@pytest.mark.parametrize(
    ("exit_text", "closing"),
    [
        ("\n</think>\n\nThe answer is \\boxed{", "\n</think>\n\n"),
        (" So be it.</think>", " So be it.</think>"),
        ("</think>\\boxed{", "</think>"),
        ("The answer is", "\n</think>\n\n"),
    ],
)
def test_the_part_that_closes(exit_text: str, closing: str) -> None:
    assert closing_part(exit_text, CLOSE) == closing


def test_decisions_do_not_depend_on_the_shorter_exit(make_config: Callable[..., StreamConfig]) -> None:
    config = make_config()
    short = config.closing_only(3)
    assert (short.exit_text, short.exit_tokens, short.bare) == ("\n</think>\n\n", 3, True)
    # nor for a request whose prompt opens no thinking, or when it is shortened again
    for made in (short, replace(short, opened=False), short.closing_only(4)):
        assert made.exits == config.exits
        assert made.policy_for(keep=False) == config.policy_for(keep=False)


@pytest.mark.parametrize(
    ("form", "lead", "thought", "message"),
    [
        ("reasoning", "", "\nOne. ", {"content": "", "reasoning": "One. ", "reasoning_content": "One. "}),
        ("reasoning", "", "<think>\nOne.", {"content": "", "reasoning": "One.", "reasoning_content": "One."}),
        ("content", "", "One.", {"content": "One.\n</think>\n\n"}),
        ("content", "{open}\n", "One.", {"content": "<think>\nOne.\n</think>\n\n"}),
    ],
)
def test_all_of_the_request_is_asked_again(
    form: Form, lead: str, thought: str, message: dict[str, str]
) -> None:
    body = {
        "model": "m", "messages": [{"role": "user", "content": "?"}], "tools": [{}], "tool_choice": "auto",
        "max_completion_tokens": 90, "temperature": 0.5, "stream_options": {"include_usage": False},
        "x": {"y": 1},
    }  # fmt: skip
    kept = Kept([StreamToken(thought.encode())], b"", "\n</think>\n\n", (), "<think>", True)
    route = ChatRoute(OpenAI(), form, lead, CLOSE)
    call = asyncio.run(route.continuation(None, Opening(body), kept, AnswerLimits(50)))  # type: ignore[arg-type]
    assert call.body == {
        **body,
        "messages": [*body["messages"], {"role": "assistant", **message}],  # type: ignore[misc]
        "max_completion_tokens": 50, "stream": True, "stream_options": {"include_usage": True},
        "continue_final_message": True, "add_generation_prompt": False,
    }  # fmt: skip


def test_a_server_that_schedules_by_priority_is_asked_to_hurry() -> None:
    kept = Kept([StreamToken(b"One.")], b"", "\n</think>\n\n", (), "<think>", True)
    opening = Opening({"model": "m", "messages": [], "priority": 4})
    route = ChatRoute(Vllm(prioritises=True), "reasoning", "", CLOSE)
    call = asyncio.run(route.continuation(None, opening, kept, AnswerLimits(50)))  # type: ignore[arg-type]
    assert call.body["priority"] == 3
    form = ways(Vllm(prioritises=True), CLOSE, frozenset({"structured_output"}))
    assert [way.prioritises for way in form] == [True] * len(form)


def test_only_a_form_alone_goes_by_tokens() -> None:
    first: list[Any] = [
        ways(dialect, CLOSE, frozenset(need))[0]
        for dialect, need in [
            (Vllm(), {"structured_output"}), (Vllm(), {"structured_output", "tools"}),
            (Vllm(), {"structured_output", "media"}), (OpenAI(), {"structured_output"}),
        ]
    ]  # fmt: skip
    assert [isinstance(way, GrammarFromTokens) for way in first] == [True, False, False, False]


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("I call it. <tool_call>{\"name\": ", True),
        ("<tool_call>{}</tool_call> Done.", False),
        ("<tool_call>{}</tool_call><tool_call>", True),
        ("<function=f><parameter=x>1", True),
        ("No call: wait.", False),
    ],
)  # fmt: skip
def test_a_call_shown_as_text_has_a_begin_and_an_end(text: str, inside: bool) -> None:
    assert inside_call(text) is inside
