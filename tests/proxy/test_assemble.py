"""The events of a stream joined into one answer."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from typing import Any

from lynxstop.proxy.assemble import Assembly


def assemble(events: Iterable[dict[str, Any]], empty: str | None = None) -> dict[str, Any]:
    made = Assembly(empty)
    for one in events:
        made.add(one)
    return made.whole()


def event(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}


def test_text_is_joined_field_by_field() -> None:
    events = [
        event(role="assistant", content=""),
        event(reasoning="a"),
        event(reasoning="b"),
        event(content="c"),
        event(content="d", finish="stop"),
        {"id": "x", "choices": [], "usage": {"total_tokens": 3}},
    ]
    found = assemble(events)
    [choice] = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "cd", "reasoning": "ab"}
    assert (choice["finish_reason"], found["usage"], found["object"]) == (
        "stop",
        {"total_tokens": 3},
        "chat.completion",
    )


def test_pieces_of_tool_calls_are_joined_by_their_index() -> None:
    def part(index: int, arguments: str, **more: Any) -> dict[str, Any]:
        named = {"function": {**more.pop("function", {}), "arguments": arguments}}
        return {"index": index, **more, **named}

    events = [
        event(tool_calls=[part(0, "", id="a", type="function", function={"name": "f"})]),
        event(tool_calls=[part(0, '{"x"')]),
        event(tool_calls=[part(1, "{}", id="b", type="function", function={"name": "g"})]),
        event(tool_calls=[part(0, ": 1}")], finish="tool_calls"),
    ]
    calls = assemble(events)["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], call["function"]) for call in calls] == [
        ("a", {"name": "f", "arguments": '{"x": 1}'}),
        ("b", {"name": "g", "arguments": "{}"}),
    ]


def test_lists_are_joined() -> None:
    pieces = [{"type": "reasoning.text", "index": 0, "text": text} for text in ("a", "b")]
    other = {"type": "reasoning.encrypted", "index": 1, "data": "x"}
    events = [
        event(role="assistant", reasoning_details=[pieces[0]], annotations=[{"url": "1"}]),
        event(reasoning_details=[pieces[1]], annotations=[{"url": "2"}]),
        event(reasoning_details=[other], finish="stop"),
    ]
    [choice] = assemble(events)["choices"]
    assert choice["message"]["reasoning_details"] == [{**pieces[0], "text": "ab"}, other]
    assert choice["message"]["annotations"] == [{"url": "1"}, {"url": "2"}]


def test_an_answer_that_has_not_begun_is_null_as_the_server_writes_it() -> None:
    events = [event(role="assistant", content=""), event(reasoning="a", finish="length")]
    assert assemble(events)["choices"][0]["message"]["content"] is None
    assert assemble(events, "")["choices"][0]["message"]["content"] == ""
    raw = [event(role="assistant", content=""), event(finish="stop")]
    assert assemble(raw)["choices"][0]["message"]["content"] == ""


def test_no_more_of_an_event_is_kept_than_the_answer_has() -> None:
    made = Assembly()
    made.add(event(role="assistant", content=""))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(2000):
            made.add(event(content=f"{number % 10}"))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.whole()["choices"][0]["message"]["content"] == "0123456789" * 200
    assert after - before < 20_000
