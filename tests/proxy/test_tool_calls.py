"""Pieces of tool calls in odd orders are the same calls on every route."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from lynxstop.proxy.messages import MessageWriter
from lynxstop.proxy.responses import ResponseWriter
from tests.proxy.test_assemble import assemble

Json = dict[str, Any]
CALL = ("a", "f", "{}")
TWO = [CALL, ("b", "g", '{"x": 1}')]


def piece(index: int | None = 0, id: str | None = None, name: str | None = None, said: Any = None) -> Json:
    function = {key: value for key, value in (("name", name), ("arguments", said)) if value is not None}
    made = {"index": index, "id": id, "function": function}
    return {key: value for key, value in made.items() if value not in (None, {})}


ORDERS: dict[str, tuple[list[Json], list[tuple[str, str, str]]]] = {
    "all at once": ([piece(0, "a", "f", "{}")], [CALL]),
    "the name after the id": ([piece(0, "a"), piece(0, None, "f"), piece(0, said="{}")], [CALL]),
    "the id after the name": ([piece(0, None, "f"), piece(0, "a"), piece(0, said="{}")], [CALL]),
    "the name last": ([piece(0, "a"), piece(0, said="{"), piece(0, said="}"), piece(0, None, "f")], [CALL]),
    "the name in every piece": ([piece(0, "a", "f", "{"), piece(0, None, "f", "}")], [CALL]),
    "the name again after the end": ([piece(0, "a", "f", "{}"), piece(0, None, "f", "")], [CALL]),
    "empty id and name in later pieces": ([piece(0, "a", "f", "{"), piece(0, "", "", "}")], [CALL]),
    "no index": ([piece(None, "a", "f", "{"), piece(None, said="}")], [CALL]),
    "two": ([piece(0, "a", "f", "{}"), piece(1, "b", "g", '{"x":'), piece(1, said=" 1}")], TWO),
    "two at one place": ([piece(0, "a", "f", "{}"), piece(0, "b", "g", '{"x": 1}')], TWO),
    "two at once": (
        [piece(0, "a", "f", "{"), piece(1, "b", "g", '{"x":'), piece(0, said="}"), piece(1, said=" 1}")],
        TWO,
    ),
    "two that begin before their arguments": (
        [piece(0, "a", "f", ""), piece(1, "b", "g", ""), piece(1, said='{"x": 1}'), piece(0, said="{}")],
        TWO,
    ),
}
"""Pieces, and the calls that they are."""


def chat(parts: Sequence[Json]) -> list[tuple[Any, ...]]:
    events = [{"choices": [{"delta": {"tool_calls": [json.loads(json.dumps(part))]}}]} for part in parts]
    calls = assemble(events)["choices"][0]["message"]["tool_calls"]
    return [(call.get("id"), call["function"]["name"], call["function"]["arguments"]) for call in calls]


def written(writer: Any, parts: Sequence[Json], reason: str = "tool_calls") -> list[Json]:
    events = list(writer.begin({"id": "1", "model": "m"}, 3))
    for part in parts:
        events += writer.calls({"tool_calls": [part]})
    events += writer.end({"finish_reason": reason}, {}, None)
    return [json.loads(json.dumps(event)) for event in events]


@pytest.mark.parametrize("name", ORDERS)
def test_a_chat_has_the_calls(name: str) -> None:
    parts, calls = ORDERS[name]
    assert chat(parts) == calls


@pytest.mark.parametrize("name", ORDERS)
def test_a_message_has_a_block_for_each(name: str) -> None:
    parts, calls = ORDERS[name]
    writer = MessageWriter(True)
    events = written(writer, parts)
    blocks = writer.whole()["content"]
    assert [(block["id"], block["name"], block["input"]) for block in blocks] == [
        (id, called, json.loads(said)) for id, called, said in calls
    ]
    # As a client puts it together.
    heard: dict[int, list[Any]] = {}
    for event in events:
        if event["type"] == "content_block_start":
            heard[event["index"]] = [event["content_block"]["id"], event["content_block"]["name"], ""]
        elif event["type"] == "content_block_delta":
            heard[event["index"]][2] += event["delta"]["partial_json"]
        elif event["type"] == "content_block_stop":
            heard[event["index"]].append("whole")
    assert list(heard.values()) == [[*call, "whole"] for call in calls]


@pytest.mark.parametrize("name", ORDERS)
def test_a_response_has_an_item_for_each(name: str) -> None:
    parts, calls = ORDERS[name]
    writer = ResponseWriter({})
    events = written(writer, parts)
    items = writer.whole()["output"]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in items] == calls
    done = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert sorted((event["output_index"], event["arguments"]) for event in done) == [
        (place, said) for place, (_, _, said) in enumerate(calls)
    ]
    heard = [""] * len(calls)
    for event in events:
        if event["type"] == "response.function_call_arguments.delta":
            heard[event["output_index"]] += event["delta"]
    assert heard == [said for _, _, said in calls]


def test_calls_without_ids_get_one_each() -> None:
    parts = [piece(None, None, "f", "{}"), piece(None, None, "g", "{}"), piece(None, None, "g", "{}")]
    writer = MessageWriter(True)
    written(writer, parts)
    blocks = writer.whole()["content"]
    assert [block["name"] for block in blocks] == ["f", "g", "g"]
    assert len({block["id"] for block in blocks if block["id"].startswith("call_")}) == 3
    assert [called for _, called, _ in chat(parts)] == ["f", "g", "g"]


def test_a_call_that_is_not_whole_is_told_before_the_text_after_it() -> None:
    writer = MessageWriter(True)
    list(writer.begin({"id": "1"}, 3))
    list(writer.calls({"tool_calls": [piece(0, "a")]}))
    list(writer.text("So.", thinking=False))
    list(writer.end({"finish_reason": "stop"}, {}, None))
    assert [block["type"] for block in writer.whole()["content"]] == ["tool_use", "text"]


@pytest.mark.parametrize(
    ("reason", "stop", "status"),
    [
        ("length", "max_tokens", ("incomplete", {"reason": "max_output_tokens"})),
        ("content_filter", "refusal", ("incomplete", {"reason": "content_filter"})),
        ("tool_calls", "tool_use", ("completed", None)),
        (["odd"], "tool_use", ("completed", None)),
    ],
)
def test_reasons_to_finish(reason: Any, stop: str, status: tuple[str, Any]) -> None:
    message, response = MessageWriter(True), ResponseWriter({})
    for writer in (message, response):
        written(writer, [piece(0, "a", "f", "{}")], reason)
    assert message.whole()["stop_reason"] == stop
    assert (response.whole()["status"], response.whole()["incomplete_details"]) == status
