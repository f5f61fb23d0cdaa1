"""Thinking and answer are split in a chat's stream, however its text is cut into events."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lynxstop.remote.thinking_splitter import ThinkingSplitter


def joined(deltas: list[dict], **options) -> tuple[str, str]:
    parts = ThinkingSplitter(**options)
    found = [part for delta in deltas for part in parts.read(delta)] + parts.end()
    assert all(part.text for part in found)
    thinking, answer = (
        "".join(part.text for part in found if part.thinking is kind) for kind in (True, False)
    )
    return thinking, answer


def cut(text: str, places: list[int]) -> list[dict]:
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [{"content": text[a:b]} for a, b in pairwise(ends)]


@given(st.lists(st.integers(0, 100)), st.booleans())
def test_delimiters_are_found_across_events(places, opened):
    text = "a < b </thin k>\n</think>\n\n<think>x</think>"
    deltas = cut(text if opened else "\n<think>" + text, places)
    assert joined(deltas, opened=opened) == ("a < b </thin k>\n", "\n\n<think>x</think>")


@given(st.lists(st.integers(0, 30)))
def test_an_answer_without_thinking_is_an_answer(places):
    assert joined(cut("<thin air> is </think> text", places)) == ("", "<thin air> is </think> text")


def test_fields_are_believed():
    deltas = [{"content": ""}, {"reasoning_content": "a"}, {"content": "<think>b</think>"}]
    assert joined(deltas) == ("a", "<think>b</think>")


def test_what_is_held_at_the_end_is_given():
    assert joined([{"content": "<thi"}]) == ("", "<thi")
    assert joined([{"content": "<think>a</thi"}]) == ("a</thi", "")
