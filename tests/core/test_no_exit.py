"""Requests that think to the end because an exit would break what the client asked for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.no_exit import completes, why_no_exit

EXIT = "\n</think>\n\nThe answer is \\boxed{"


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({}, None),
        ({"min_tokens": 0, "stop": None, "stop_token_ids": []}, None),
        ({"min_tokens": 200}, "min_tokens"),
        ({"min_tokens": "many"}, None),
        ({"stop": "The answer"}, "stop"),
        ({"stop": ["never", "\n\n"]}, "stop"),
        ({"stop": "so.\n"}, "stop"),  # the exit's line break completes it
        ({"stop": "{17"}, None),  # the model completes it, in its answer
        ({"stop": ["Observation:", ""]}, None),
        ({"stop_token_ids": [3, 9]}, "stop"),
        ({"stop_token_ids": [3]}, None),
    ],
)
def test_what_an_exit_does_not_go_together_with(settings: dict[str, Any], cause: str | None) -> None:
    assert why_no_exit(settings, EXIT, (7, 9)) == cause


texts = st.text("ab", max_size=5)


@given(before=texts, exit_text=texts, stop=st.text("ab", min_size=1, max_size=4))
def test_a_stop_string_that_the_exit_completes_is_found(before: str, exit_text: str, stop: str) -> None:
    # given a stop string that appears while the exit is written, and not before: then it is found
    if stop in before + exit_text and stop not in before:
        assert completes(exit_text, stop)


@given(exit_text=texts, stop=st.text("ab", min_size=1, max_size=4))
def test_one_that_is_found_can_appear(exit_text: str, stop: str) -> None:
    if completes(exit_text, stop):
        ends = [stop[: len(stop) - n] for n in range(len(stop) + 1)]
        assert any(stop in end + exit_text and stop not in end for end in ["", *ends])
