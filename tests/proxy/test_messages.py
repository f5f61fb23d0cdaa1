"""Anthropic's protocol in front of a server of chats, driven by Anthropic's own client."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, cast

import anthropic
import httpx
import pytest

from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.messages import to_chat
from lynxstop.proxy.serve import build
from lynxstop.testing.reasoner import held
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.servers import eventually, proxied, serving
from tests.support.watching import watching

QUESTION = "What is 7 + 5 * 2 - 3?"
CLIENTS: list[anthropic.Anthropic] = []
THINKING = {"type": "enabled", "budget_tokens": 2000}
ASK: dict[str, Any] = {
    "model": "toy",
    "max_tokens": 4000,
    "system": "You add.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
    "thinking": THINKING,
}


@pytest.fixture(autouse=True)
def clients_are_closed() -> Iterator[None]:
    yield
    while CLIENTS:
        CLIENTS.pop().close()


def client(url: str, key: str = "secret") -> anthropic.Anthropic:
    CLIENTS.append(anthropic.Anthropic(base_url=url, api_key=key, max_retries=0))
    return CLIENTS[-1]


def test_the_client_gets_thinking_and_the_answer_held_there(mock, proxy):
    server = mock[1]
    server.records.clear()
    message = client(proxy.url).messages.create(**ASK)
    thinking, text = message.content
    assert (thinking.type, text.type) == ("thinking", "text")
    assert text.text == f"\n\nThe answer is \\boxed{{{held(thinking.thinking)}}}."
    assert thinking.signature
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens > 0
    assert message.lynxstop["exit"] == "score"
    first, second = server.records
    assert first.path == "/v1/chat/completions"
    assert first.body["messages"] == [
        {"role": "system", "content": "You add."},
        {"role": "user", "content": QUESTION},
    ]
    assert first.body["max_tokens"] == 4000
    assert second.path == "/v1/completions"


def test_the_stream_says_what_the_whole_says(proxy):
    whole = client(proxy.url).messages.create(**ASK)
    with client(proxy.url).messages.stream(**ASK) as stream:
        names = [event.type for event in stream]
        message = stream.get_final_message()
    assert message.content[0] == whole.content[0]
    assert cast(Any, message.content[1]).text == whole.content[1].text
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert message.usage.input_tokens == whole.usage.input_tokens > 0
    assert (names[0], names[-1]) == ("message_start", "message_stop")
    assert names.count("content_block_start") == names.count("content_block_stop") == 2


def test_events_come_in_the_order_of_the_protocol(proxy):
    raw = httpx.post(f"{proxy.url}/v1/messages", json={**ASK, "stream": True}, timeout=30).text
    frames = [frame.split("\n") for frame in raw.strip().split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in frames]
    assert [name.removeprefix("event: ") for name, _ in frames] == [event["type"] for event in events]
    order = [event["type"] if "delta" not in event["type"] or "delta" not in event else
             event["delta"].get("type", event["type"]) for event in events]  # fmt: skip
    shown = [name for place, name in enumerate(order) if place == 0 or name != order[place - 1]]
    assert shown == [
        "message_start", "ping",
        "content_block_start", "thinking_delta", "signature_delta", "content_block_stop",
        "content_block_start", "text_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1]
    assert events[-2]["lynxstop"]["stopped"] is True


@pytest.mark.parametrize("reasoning", ["reasoning_content", "thinking", "raw"])
def test_thinking_is_found_wherever_the_server_puts_it(reasoning):
    with serving(MockServer(MockSettings(reasoning=reasoning))) as url, watching(url, math.inf) as proxy:
        message = client(proxy.url).messages.create(**ASK)
    thinking, text = message.content
    assert thinking.thinking.startswith("\nLet me work it out.")
    assert thinking.thinking.endswith("I am sure now.\n")
    assert text.text == f"\n\nThe answer is \\boxed{{{held(thinking.thinking)}}}."


def test_thinking_that_was_not_asked_for_is_not_shown(proxy):
    asked = {name: value for name, value in ASK.items() if name != "thinking"}
    [text] = client(proxy.url).messages.create(**asked).content
    assert text.text.startswith("\n\nThe answer is")


def test_a_limit_is_a_reason_to_stop(proxy):
    message = client(proxy.url).messages.create(**{**ASK, "max_tokens": 5, "thinking": {"type": "adaptive"}})
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 5


def test_off_and_no_bundle_are_translated_too(mock, proxy):
    off = client(proxy.url).messages.create(**ASK, extra_body={"lynxstop": {"risk": "off"}})
    with proxied(mock[0], build(ProxyConfig.model_validate({"upstream": {"url": mock[0]}}))) as plain:
        without = client(plain.url).messages.create(**ASK)
    assert off.content == without.content
    assert "sure now" in off.content[0].thinking
    assert proxy.count("lynxstop_passthrough_total", cause="off") == 1


def test_a_race_is_won_in_every_protocol(proxy):
    message = client(proxy.url).messages.create(**ASK, extra_body={"lynxstop": {"race": 3}, "seed": 1})
    assert message.lynxstop["race"]["n"] == 3


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"tools": [{"name": "web_search", "type": "web_search_20250305"}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "blocks"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "citations": []}]}]},
            "blocks",
        ),
        ({"messages": [*ASK["messages"], {"role": "assistant", "content": "It is"}]}, "continued_message"),
        ({"thinking": {"type": "disabled"}}, "thinking_hidden"),
        ({"container": "x"}, "parameters"),
        ({"messages": []}, "malformed"),
    ],
)
def test_what_does_not_translate_is_refused_in_the_protocols_shape(proxy, more, cause):
    assert to_chat({**ASK, **more}) == cause
    with pytest.raises(anthropic.BadRequestError) as caught:
        client(proxy.url).post("/v1/messages", body={**ASK, **more}, cast_to=object)
    assert cast(Any, caught.value.body)["type"] == "error"
    assert cast(Any, caught.value.body)["error"]["type"] == "invalid_request_error"
    assert cause in cast(Any, caught.value.body)["error"]["message"]


def test_earlier_thinking_is_left_out():
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "b"},
        ]},
        {"role": "user", "content": [{"type": "text", "text": "c", "cache_control": {"type": "ephemeral"}}]},
    ]  # fmt: skip
    chat: Any = to_chat({**ASK, "messages": turns, "stop_sequences": ["x"], "top_k": 3})
    assert [message["content"] for message in chat["messages"]] == ["You add.", "a", "b", "c"]
    assert (chat["stop"], chat["top_k"]) == (["x"], 3)


def test_a_server_with_the_route_gets_what_is_not_watched():
    seen: list[bytes] = []

    async def server(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = await receive()
        if scope["path"] == "/v1/messages":
            seen.append(message["body"])
        body = b'{"type":"message","tokens":[1]}'
        await send({"type": "http.response.start", "status": 200 if message["body"] else 400, "headers": []})
        await send({"type": "http.response.body", "body": body})

    given = json.dumps({**ASK, "tools": [{"name": "f"}], "unknown": 1.0}).encode()
    with serving(server, lifespan="off") as url:
        with watching(url) as proxy:
            for _ in range(2):
                assert httpx.post(f"{proxy.url}/v1/messages", content=given).json()["type"] == "message"
        assert seen == [b"", given, given]
        seen.clear()
        # A server with the plugin gets the options.
        with watching(url, cause="plugin") as proxy:
            asked = {**ASK, "lynxstop": {"risk": 0.1, "mode": "shadow"}}
            httpx.post(f"{proxy.url}/v1/messages", json=asked)
    options = {"lynxstop_risk": 0.1, "lynxstop_mode": "shadow"}
    assert json.loads(seen[-1]) == {**ASK, "vllm_xargs": options}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("status-429", anthropic.RateLimitError), ("before-headers", anthropic.APIStatusError)],
)
def test_an_early_fault_has_the_protocols_shape(proxy, fault, kind):
    with pytest.raises(kind) as caught:
        client(proxy.url).messages.create(**ASK, extra_headers={"x-mock": f"fault={fault}"})
    assert cast(Any, caught.value.body)["type"] == "error"


def test_a_fault_in_the_stream_is_raised_by_the_client(mock):
    with watching(mock[0], math.inf) as proxy, pytest.raises(anthropic.APIStatusError) as caught:
        list(
            client(proxy.url).messages.create(
                **ASK, stream=True, extra_headers={"x-mock": "fault=mid-thinking"}
            )
        )
    assert cast(Any, caught.value.body)["error"]["type"] == "api_error"


def test_the_key_goes_on_as_chats_expect_it(mock):
    seen: list[bytes | None] = []

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/chat"):
            seen.append(dict(scope["headers"]).get(b"authorization"))
        await mock[1](scope, receive, send)

    with serving(listening) as url, watching(url) as proxy:
        assert client(proxy.url).messages.create(**ASK).content
    assert seen == [b"Bearer secret"]


def test_a_key_of_the_proxy_is_asked_for_in_the_protocols_shape(mock):
    sections = {"serve": {"api_keys": ["secret"]}}
    with watching(mock[0], sections=sections) as proxy:
        assert client(proxy.url).messages.create(**ASK).content
        with pytest.raises(anthropic.AuthenticationError):
            client(proxy.url, "no").messages.create(**ASK)


def test_a_client_that_goes_takes_the_server_with_it(mock):
    address, server = mock
    server.records.clear()
    with watching(address, math.inf) as proxy:
        with client(proxy.url).messages.stream(**ASK, extra_headers={"x-mock": "delay=0.02"}) as stream:
            next(iter(stream))
        eventually(lambda: server.records and server.records[0].outcome == "aborted")
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
