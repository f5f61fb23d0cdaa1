"""Prompts of completions: whether they leave thinking open, and what a request for one means."""

from __future__ import annotations

from typing import Any

import pytest

from lynxstop.core.thinking import Delimiters
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.dialects.llamacpp import LlamaCpp
from lynxstop.remote.dialects.ollama import Ollama
from lynxstop.remote.dialects.openai import OpenAI
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.text import TextRequest, leaves_open, one_prompt

THINK = Delimiters(("<think>", "[THINK]"), ("</think>", "[/THINK]"))


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("What is 1 + 1?", False),
        ("What? <think>", True),
        ("What? <think>\nSo far", True),
        ("What? <think>So</think>", False),
        ("What? <think>So</think>\nThe answer", False),
        ("</think>", False),
        ("A <think>b</think> c <think>d", True),
        ("A [THINK]b", True),
        ("A <think>b[/THINK]", False),
        ("", False),
    ],
)
def test_a_block_is_open_when_the_last_delimiter_opens_one(text: str, opened: bool) -> None:
    assert leaves_open(text, THINK) is opened


@pytest.mark.parametrize(
    ("body", "limit", "found"),
    [
        ({}, 16, 16),
        ({"max_tokens": None}, 16, 16),
        ({"max_tokens": 5}, 16, 5),
        ({"max_tokens": 500}, 16, 500),
        ({}, None, None),
        ({"max_tokens": 5}, None, 5),
    ],
)
def test_a_limit_that_is_not_named_is_the_protocols(
    body: dict[str, Any], limit: int | None, found: int | None
) -> None:
    assert TextRequest(body, 0.05, limit=limit).max_tokens == found


@pytest.mark.parametrize(
    ("dialect", "limit"), [(Vllm(), 16), (OpenAI(), 16), (LlamaCpp(), None), (Ollama(), None)]
)
def test_some_servers_have_no_limit_of_their_own(dialect: Dialect, limit: int | None) -> None:
    assert dialect.facts.completion_limit == limit


@pytest.mark.parametrize(("asked", "found"), [(None, None), (False, None), (0, 0), (3, 3), (True, 1)])
def test_log_probabilities_of_completions_are_a_number(asked: Any, found: int | None) -> None:
    assert TextRequest({"logprobs": asked}, None).logprobs == found


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a", "a"),
        ("", ""),
        (["a"], "a"),
        ([1, 2], [1, 2]),
        ([[1, 2]], [1, 2]),
        (["a", "b"], None),
        ([[1], [2]], None),
        ([], None),
        ([True], None),
        (None, None),
        ({}, None),
    ],
)
def test_one_prompt_is_a_text_or_tokens(prompt: Any, found: Any) -> None:
    assert one_prompt({"prompt": prompt}) == found
