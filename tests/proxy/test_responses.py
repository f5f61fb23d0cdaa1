"""OpenAI's protocol of responses in front of a server of chats, driven by OpenAI's own client."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, cast

import httpx
import openai
import pytest

from lynxstop.proxy.responses import to_chat
from lynxstop.testing.reasoner import held
from tests.support.watching import watching

QUESTION = "What is 7 + 5 * 2 - 3?"
CLIENTS: list[openai.OpenAI] = []
ASK: dict[str, Any] = {"model": "toy", "input": QUESTION, "instructions": "You add."}


@pytest.fixture(autouse=True)
def clients_are_closed() -> Iterator[None]:
    yield
    while CLIENTS:
        CLIENTS.pop().close()


def client(url: str) -> openai.OpenAI:
    CLIENTS.append(openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))
    return CLIENTS[-1]


def test_the_client_gets_reasoning_and_the_answer_held_there(mock, proxy):
    server = mock[1]
    server.records.clear()
    response = client(proxy.url).responses.create(**ASK, max_output_tokens=4000, metadata={"a": "b"})
    reasoning, message = response.output
    assert (reasoning.type, message.type) == ("reasoning", "message")
    assert response.output_text == f"\n\nThe answer is \\boxed{{{held(reasoning.content[0].text)}}}."
    assert (response.status, response.metadata) == ("completed", {"a": "b"})
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens == response.lynxstop["thinking_tokens"] > 0
    first, second = server.records
    assert [message["role"] for message in first.body["messages"]] == ["system", "user"]
    assert (first.body["max_tokens"], second.path) == (4000, "/v1/completions")


def test_the_stream_says_what_the_whole_says(proxy):
    whole = client(proxy.url).responses.create(**ASK)
    with client(proxy.url).responses.stream(**ASK) as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert [cast(Any, item).content[0].text for item in response.output] == [
        item.content[0].text for item in whole.output
    ]
    assert response.usage == whole.usage
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_events_come_in_the_order_of_the_protocol(proxy):
    raw = httpx.post(f"{proxy.url}/v1/responses", json={**ASK, "stream": True}, timeout=30).text
    frames = [frame.split("\n") for frame in raw.strip().split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in frames]
    assert [name.removeprefix("event: ") for name, _ in frames] == [event["type"] for event in events]
    order = [event["type"].removeprefix("response.") for event in events]
    item = [
        "output_item.added",
        "content_part.added",
        "{}.delta",
        "{}.done",
        "content_part.done",
        "output_item.done",
    ]
    assert [name for place, name in enumerate(order) if place == 0 or name != order[place - 1]] == [
        "created",
        "in_progress",
        *(name.format("reasoning_text") for name in item),
        *(name.format("output_text") for name in item),
        "completed",
    ]
    for kind in ("reasoning_text", "output_text"):
        said = "".join(event["delta"] for event in events if event["type"] == f"response.{kind}.delta")
        assert [event["text"] for event in events if event["type"] == f"response.{kind}.done"] == [said]
    assert events[-1]["response"]["lynxstop"]["stopped"] is True
    assert events[0]["response"]["status"] == "in_progress"


def test_a_limit_leaves_a_response_incomplete(proxy):
    response = client(proxy.url).responses.create(**ASK, max_output_tokens=5)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"store": True}, "stored"),
        ({"previous_response_id": "resp_1"}, "parameters"),
        ({"background": True}, "parameters"),
        ({"truncation": "auto"}, "parameters"),
        ({"text": {"format": {"type": "json_object"}}}, "structured_output"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "items"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "items"),
        ({"input": [{"role": "assistant", "content": "It is"}]}, "continued_message"),
        ({"input": []}, "malformed"),
    ],
)
def test_what_does_not_translate_is_refused(proxy, more, cause):
    assert to_chat({**ASK, **more}) == cause
    with pytest.raises(openai.BadRequestError) as caught:
        client(proxy.url).responses.create(**{**ASK, **more})
    assert caught.value.code == "not_translated"
    assert cause in caught.value.message


def test_conversations_translate():
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "user", "content": "b"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "c", "annotations": []}]},
        {"role": "user", "content": "d"},
    ]  # fmt: skip
    more = {"reasoning": {"effort": "low"}, "tools": [], "store": False, "top_p": 0.9, "truncation": None}
    chat: Any = to_chat({**ASK, "input": items, **more})
    assert [(message["role"], message["content"]) for message in chat["messages"]] == [
        ("system", "You add."), ("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"),
    ]  # fmt: skip
    assert (chat["reasoning_effort"], chat["top_p"]) == ("low", 0.9)


def test_the_effort_chooses_the_level(mock):
    effort = {"policy": {"risk": 0.05, "reasoning_effort": {"low": 0.1, "high": "off"}}}
    with watching(mock[0], math.inf, sections=effort) as proxy:
        low = client(proxy.url).responses.create(**ASK, reasoning={"effort": "low"})
        high = client(proxy.url).responses.create(**ASK, reasoning={"effort": "high"})
    assert low.lynxstop["stopped"] is True
    assert not hasattr(high, "lynxstop")


def test_a_fault_in_the_stream_is_reported(mock):
    with watching(mock[0], math.inf) as proxy:
        events = client(proxy.url).responses.create(
            **ASK, stream=True, extra_headers={"x-mock": "fault=mid-thinking"}
        )
        seen: list[str] = []
        with pytest.raises(openai.APIError, match="server"):
            seen.extend(event.type for event in events)


def test_an_early_fault_is_the_servers(proxy):
    with pytest.raises(openai.RateLimitError) as caught:
        client(proxy.url).responses.create(**ASK, extra_headers={"x-mock": "fault=status-429"})
    assert "A fault was asked for" in caught.value.message


TOOL = {"type": "function", "name": "check", "description": "Checks.", "parameters": {"type": "object"}}


def test_a_call_after_an_exit_is_an_item_and_its_result_goes_back(proxy):
    asked: Any = {**ASK, "tools": [TOOL]}
    first: Any = client(proxy.url).responses.create(**asked)
    assert [item.type for item in first.output] == ["reasoning", "function_call"]
    call = first.output[1]
    assert (call.name, json.loads(call.arguments)) == ("check", {})
    assert first.lynxstop["stopped"]
    with client(proxy.url).responses.stream(**asked) as stream:
        events = list(stream)
        streamed = stream.get_final_response()
    assert [item.type for item in streamed.output] == ["reasoning", "function_call"]
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == [call.arguments]
    # With its thinking, which templates write until the user speaks again.
    said = {"type": "function_call_output", "call_id": call.call_id, "output": "14"}
    items = [{"role": "user", "content": ASK["input"]}, *(item.to_dict() for item in first.output), said]
    chat: Any = to_chat({**ASK, "input": items, "tools": [TOOL]})
    _, user, assistant, result = chat["messages"]
    assert user["role"] == "user"
    assert assistant["reasoning"] == first.output[0].content[0].text
    assert assistant["tool_calls"][0]["function"] == {"name": "check", "arguments": call.arguments}
    assert result == {"role": "tool", "tool_call_id": call.call_id, "content": "14"}
    assert chat["tools"][0]["function"] == {name: TOOL[name] for name in TOOL if name != "type"}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", "required"),
        ({"type": "function", "name": "check"}, {"type": "function", "function": {"name": "check"}}),
        ({"type": "allowed_tools", "tools": []}, None),
    ],
)
def test_the_choice_of_a_tool_translates(choice, expected):
    chat: Any = to_chat({**ASK, "tools": [TOOL], "tool_choice": choice})
    assert chat == "tools" if expected is None else chat["tool_choice"] == expected


def test_a_thought_of_an_earlier_turn_is_not_that_of_a_later_call() -> None:
    items = [
        {"role": "user", "content": "Hello."},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "A greeting."}]},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Look it up."},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
    ]
    chat = to_chat({"model": "toy", "input": items})
    assert isinstance(chat, dict)
    assert [sorted(message) for message in chat["messages"] if "tool_calls" in message] == [
        ["content", "role", "tool_calls"]
    ]
    led = to_chat({"model": "toy", "input": [*items[:4], items[1], *items[4:]]})
    assert isinstance(led, dict)
    assert led["messages"][-2]["reasoning"] == "A greeting."
