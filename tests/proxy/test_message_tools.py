"""Tools in Anthropic's protocol: translated both ways, stopped as chats are, with its own official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from lynxstop.proxy.message_tools import tools_of, turns_of
from lynxstop.proxy.messages import MessageWriter, to_chat
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.servers import Proxied, serving
from tests.support.watching import watching

TOOL = {"name": "check", "description": "Checks.", "input_schema": {"type": "object"}, "strict": True}
ASK: dict[str, Any] = {
    "model": "toy", "max_tokens": 1000, "thinking": {"type": "adaptive"}, "tools": [TOOL],
    "messages": [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[MockServer, Proxied, anthropic.Anthropic]]:
    server = MockServer(MockSettings(opened=True))
    with serving(server) as url, watching(url) as proxy:
        yield server, proxy, anthropic.Anthropic(base_url=proxy.url, api_key="none", max_retries=0)


def test_a_call_after_an_exit_is_a_block(world: tuple[MockServer, Proxied, anthropic.Anthropic]) -> None:
    _, _, client = world
    message: Any = client.messages.create(**ASK)
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert (message.content[1].name, message.content[1].input) == ("check", {})
    assert message.stop_reason == "tool_use"
    assert message.lynxstop["stopped"]
    with client.messages.stream(**ASK) as stream:
        streamed: Any = stream.get_final_message()
    assert streamed.content[1].name == "check"
    assert streamed.content[0].thinking == message.content[0].thinking
    assert streamed.usage.output_tokens == message.usage.output_tokens


def test_results_go_back_with_the_thinking_that_led_to_the_call(
    world: tuple[MockServer, Proxied, anthropic.Anthropic],
) -> None:
    server, _, client = world
    first: Any = client.messages.create(**ASK)
    [_, call] = first.content
    said = [{"type": "text", "text": "14"}]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": said}
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second: Any = client.messages.create(**{**ASK, "messages": turns})
    assert second.lynxstop["stopped"]
    sent = server.records[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "assistant"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "check", "arguments": "{}"}
    assert sent[1]["reasoning"] == first.content[0].thinking
    assert sent[2] == {"role": "tool", "tool_call_id": call.id, "content": "14"}


@pytest.mark.parametrize(
    ("choice", "made"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        (None, {}),
    ],
)
def test_choices(choice: Any, made: dict[str, Any]) -> None:
    found = tools_of({"tools": [TOOL], "tool_choice": choice})
    function = {"name": "check", "description": "Checks.", "parameters": {"type": "object"}, "strict": True}
    assert found == {"tools": [{"type": "function", "function": function}], **made}


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "bash_20250124", "name": "bash"}]},
        {"tools": [{"name": "f"}]},
        {"tools": [TOOL], "tool_choice": {"type": "other"}},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": {"a": 1}},
        {"tool_choice": {"type": "any"}},
    ],
)
def test_what_chats_cannot_express_is_left_alone(body: dict[str, Any]) -> None:
    assert tools_of(body) is None
    assert to_chat({**ASK, "tools": None, **body}) == "tools"


def test_a_turn_with_more_than_text_calls_and_results_is_left_alone() -> None:
    image = {"type": "image", "source": {}}
    assert turns_of("user", [{"type": "tool_result", "tool_use_id": "a", "content": [image]}]) is None
    assert turns_of("user", [{"type": "tool_result", "tool_use_id": "a"}, image]) is None
    said = [{"type": "tool_result", "tool_use_id": "a", "content": "1"}, {"type": "text", "text": "Go on."}]
    assert turns_of("user", said) == [
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "user", "content": "Go on."},
    ]


def test_calls_in_pieces_are_blocks_one_after_the_other() -> None:
    writer = MessageWriter(True)
    list(writer.begin({"id": "1", "model": "m"}, 3))
    list(writer.text("So.", thinking=False))
    parts: list[dict[str, Any]] = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x":'}},
        {"index": 0, "function": {"arguments": " 1}"}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"y": '}},
    ]
    events = [event for part in parts for event in writer.calls({"tool_calls": [part]})]
    events += list(writer.end({"finish_reason": "tool_calls"}, {}, None))
    assert [event["type"] for event in events] == [
        "content_block_stop", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "content_block_start", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [1, 2]
    # An argument that a limit has cut is no JSON.
    assert [block.get("input") for block in writer.whole()["content"]] == [None, {"x": 1}, {}]
    assert writer.whole()["stop_reason"] == "tool_use"
    assert json.dumps(writer.whole())


def test_keys_of_null_in_tools_and_results_are_absent() -> None:
    tool = {"name": "f", "input_schema": {}}
    nulls = {"description": None, "defer_loading": None}
    assert tools_of({"tools": [tool]}) is not None
    assert tools_of({"tools": [{**tool, **nulls}]}) == tools_of({"tools": [tool]})
    result = {"type": "tool_result", "tool_use_id": "x", "content": "r"}
    assert turns_of("user", [{**result, "title": None}]) == turns_of("user", [result]) != []
