"""Tools and forms: after an exit the server's own chat route answers, once it has been shown to do so."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from lynxstop.artifacts.certified import Certified
from lynxstop.core.conditions import Conditions
from lynxstop.remote import chat_route_check as check
from lynxstop.remote.dialects.openai import OpenAI
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.testing import server as mocked
from lynxstop.testing.reasoner import formed, held, render
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from lynxstop.testing.wire import Wire
from tests.support.canned import CHAT, Odd, chat
from tests.support.servers import Proxied, eventually, serving
from tests.support.watching import watching

TOOL = {"type": "function", "function": {"name": "check", "parameters": {"type": "object"}}}
FORM = {"type": "json_schema", "json_schema": {"name": "sum", "schema": {"type": "object"}}}
BODY: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}]}


def stream(url: str, headers: dict[str, str] | None = None, **more: Any) -> list[dict[str, Any]]:
    asked = {**BODY, "stream": True, "stream_options": {"include_usage": True}, **more}
    with httpx.stream("POST", url + CHAT, json=asked, headers=headers or {}, timeout=30) as answer:
        lines = list(answer.iter_lines())
    assert lines.count("data: [DONE]") == 1
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def joined(events: list[dict[str, Any]], name: str) -> str:
    deltas = [choice["delta"] for event in events for choice in event.get("choices") or ()]
    return "".join(delta.get(name) or "" for delta in deltas)


@pytest.fixture(scope="module", params=["auto", "vllm"])
def world(request: pytest.FixtureRequest) -> Iterator[tuple[MockServer, Proxied]]:
    server = MockServer(MockSettings(opened=True))
    dialect = Vllm() if request.param == "vllm" else OpenAI("tokens", "")
    with serving(server) as url, watching(url, dialect=dialect) as proxy:
        yield server, proxy


def test_a_call_after_an_exit_is_the_servers_own(world: tuple[MockServer, Proxied]) -> None:
    server, proxy = world
    server.records.clear()
    events = stream(proxy.url, tools=[TOOL])
    report = events[-1]["lynxstop"]
    assert report["stopped"]
    assert len({event["id"] for event in events}) == 1
    choices = [choice for event in events for choice in event["choices"]]
    [call] = [part for choice in choices for part in choice["delta"].get("tool_calls") or ()]
    assert call["function"]["name"] == "check"
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert joined(events, "content") == ""
    usage = events[-1]["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == report["thinking_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    # All of the client's request is in the second one.
    first, second = list(server.records)[-2:]
    assert first.path == second.path == CHAT
    assert second.body["tools"] == [TOOL]
    assert second.body["messages"][:-1] == BODY["messages"]
    assert second.body["continue_final_message"] is True
    assert second.body["add_generation_prompt"] is False
    kept = second.body["messages"][-1]
    assert kept["role"] == "assistant"
    assert joined(events, "reasoning").strip() == kept["reasoning"].strip()


def test_a_form_holds_for_the_answer_after_an_exit(world: tuple[MockServer, Proxied]) -> None:
    _, proxy = world
    events = stream(proxy.url, response_format=FORM)
    assert events[-1]["lynxstop"]["stopped"]
    assert json.loads(joined(events, "content")) == {"answer": int(held(joined(events, "reasoning")))}
    whole = httpx.post(proxy.url + CHAT, json={**BODY, "response_format": FORM}, timeout=30).json()
    assert whole["choices"][0]["message"]["content"] == joined(events, "content")
    assert whole["usage"] == events[-1]["usage"]


def test_thinking_with_its_own_end_and_call_is_the_servers_stream(world: tuple[MockServer, Proxied]) -> None:
    server, _ = world
    with serving(server) as url, watching(url, math.inf) as unstopped:
        own, seen = stream(url, tools=[TOOL]), stream(unstopped.url, tools=[TOOL])
        assert unstopped.count("lynxstop_passthrough_total", cause="not_understood") == 0
    for event in (*own, *seen):
        event.pop("id"), event.pop("created", None)
    assert seen[-1].pop("lynxstop")["stopped"] is False
    assert seen == own


def test_results_of_tools_are_a_kind_of_their_own(world: tuple[MockServer, Proxied]) -> None:
    server, proxy = world
    server.records.clear()
    called = {"id": "a", "type": "function", "function": {"name": "check", "arguments": "{}"}}
    turns = [
        *BODY["messages"],
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "a", "content": "14"},
    ]
    events = stream(proxy.url, tools=[TOOL], messages=turns)
    assert events[-1]["lynxstop"]["stopped"]
    probes = [record.body["messages"] for record in server.records][:-2]
    assert all(any(message["role"] == "tool" for message in messages) for messages in probes)


def test_media_keep_the_whole_exit_text(world: tuple[MockServer, Proxied]) -> None:
    server, proxy = world
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    said = [{"type": "text", "text": BODY["messages"][0]["content"]}, image]
    events = stream(proxy.url, messages=[{"role": "user", "content": said}])
    assert events[-1]["lynxstop"]["stopped"]
    assert joined(events, "content") == f"\n\nThe answer is \\boxed{{{held(joined(events, 'reasoning'))}}}."
    assert server.records[-1].body["messages"][0]["content"] == said


@pytest.mark.parametrize("fault", ["dropped", "closed", "reworded"])
@pytest.mark.parametrize("counted", [False, True], ids=["rendered", "counted"])
def test_a_template_that_changes_the_thinking_is_found_out(
    monkeypatch: pytest.MonkeyPatch, fault: str, counted: bool
) -> None:
    """Whether the server shows its rendered prompt, or only counts its tokens."""

    def changed(messages: list[dict[str, Any]], **how: Any) -> str:
        text = render(messages, **how)
        if not how["resume"]:
            return text
        begun, mark, said = text.rpartition("<|assistant|>")
        if fault == "dropped":
            return begun + mark + "\n" + said.rpartition("</think>")[2].lstrip()
        if fault == "closed":
            return text + "\n<|user|>\n<|assistant|>\n" + "Once more. " * 8
        return begun + mark + "\n<think>\nLet me see.\n</think>\n\n"

    monkeypatch.setattr(mocked, "render", changed)
    server = MockServer(MockSettings(opened=True))
    if counted:
        monkeypatch.setattr(check, "rendered", nothing)
    with serving(server) as url, watching(url, dialect=OpenAI("tokens", "")) as proxy:
        answer = httpx.post(proxy.url + CHAT, json={**BODY, "tools": [TOOL]}, timeout=30).json()
        assert "lynxstop" not in answer
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        assert proxy.count("lynxstop_passthrough_total", cause="tools") == 1


async def nothing(*given: Any, **more: Any) -> None:
    return None


def test_an_answer_taken_for_thinking_or_not_held_to_its_form_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = MockServer(MockSettings(opened=True))
    monkeypatch.setattr(mocked, "formed", lambda prompt, said: said)
    with serving(server) as url, watching(url) as proxy:
        stream(proxy.url, response_format=FORM)
        assert proxy.count("lynxstop_passthrough_total", cause="structured_output") == 1
    monkeypatch.setattr(Wire, "_field", lambda wire, token: "reasoning")
    monkeypatch.setattr(mocked, "formed", formed)
    with serving(server) as url, watching(url, dialect=OpenAI("tokens", "")) as proxy:
        stream(proxy.url, response_format=FORM)
        assert proxy.count("lynxstop_passthrough_total", cause="structured_output") == 1


def test_a_server_that_refuses_tools_is_left_to_say_so() -> None:
    server = MockServer(MockSettings(opened=True, resume=False))
    with serving(server) as url, watching(url) as proxy:
        events = stream(proxy.url, tools=[TOOL])
        assert "lynxstop" not in events[-1]
        assert proxy.count("lynxstop_passthrough_total", cause="tools") == 1


@pytest.mark.parametrize("policy", ["think", "stop"])
def test_no_certificate_is_named_for_a_call(policy: str) -> None:
    certified = Certified(Conditions(1.0))
    server = MockServer(MockSettings(opened=True))
    sections = {"policy": {"risk": 0.05, "uncertified": policy}}
    with serving(server) as url, watching(url, certified=certified, sections=sections) as proxy:
        events = stream(proxy.url, tools=[TOOL])
        if policy == "think":
            assert "lynxstop" not in events[-1]
            assert proxy.count("lynxstop_passthrough_total", cause="tools") == 1
            # Nothing was tried out for it.
            assert len(server.records) == 1
        else:
            assert events[-1]["lynxstop"]["stopped"]
            assert events[-1]["lynxstop"]["certificate"] is None
            assert proxy.count("lynxstop_uncertified_total", cause="tools") == 1


PIECES: list[dict[str, Any]] = [
    {"role": "assistant", "content": ""},
    {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]},
    {
        "tool_calls": [
            {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}
        ]
    },
]


class Calling(Odd):
    """Thinks as the canned server does; a continued chat calls two tools, piece by piece.

    Its own checks read as many tokens as they should, clients' requests as many as a test says.
    """

    def __init__(self, prompt_tokens: int = 9) -> None:
        super().__init__()
        self.prompt_tokens = prompt_tokens

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = json.loads(message.get("body") or b"{}")
        if body.get("continue_final_message"):
            said: list[Any] = [{"index": 0, "delta": delta} for delta in PIECES]
            said.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
            made: list[Any] = [{"id": "second", "choices": [one]} for one in said]
            read = 9 if "max_tokens" in body else self.prompt_tokens
            used = {"prompt_tokens": read, "completion_tokens": 30, "total_tokens": read + 30}
            events = [*made, {"id": "second", "choices": [], "usage": used}]
        else:
            events = chat("1")

        async def again() -> Any:
            return message

        await Odd(*map(orjson.dumps, events))(scope, again, send)


def test_calls_in_pieces_are_relayed_as_one_stream() -> None:
    with serving(Calling()) as url, watching(url) as proxy:
        events = stream(proxy.url, tools=[TOOL])
        whole = httpx.post(proxy.url + CHAT, json={**BODY, "tools": [TOOL]}, timeout=30).json()
    assert {event["id"] for event in events} == {"c1"}
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert [delta for delta in deltas if "tool_calls" in delta] == PIECES[1:]
    calls = whole["choices"][0]["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"name": "f", "arguments": '{"x": 1}'}, {"name": "g", "arguments": "{}"},
    ]  # fmt: skip
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert whole["usage"]["prompt_tokens"] == 3
    assert whole["usage"] == events[-1]["usage"]


def test_the_probes_are_made_once(world: tuple[MockServer, Proxied]) -> None:
    server, proxy = world
    stream(proxy.url, tools=[TOOL])
    server.records.clear()
    stream(proxy.url, tools=[TOOL])
    assert len(server.records) == 2


def test_a_way_that_loses_the_thinking_of_a_real_request_is_given_up() -> None:
    with serving(Calling(90)) as url, watching(url) as proxy:
        assert stream(proxy.url, tools=[TOOL])[-1]["lynxstop"]["stopped"]
        # The proxy counts when the client has read all.
        eventually(lambda: "lynxstop" not in stream(proxy.url, tools=[TOOL])[-1])
        assert proxy.count("lynxstop_passthrough_total", cause="tools") >= 1


def test_a_refusal_is_remembered() -> None:
    class Refusing(Calling):
        asked = 0

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            message = await receive()
            if scope["path"] == CHAT and b'"logprobs":true' in message["body"]:
                self.asked += 1
                await send({"type": "http.response.start", "status": 400, "headers": []})
                await send({"type": "http.response.body", "body": b"no tools with logprobs"})
                return

            async def again() -> Any:
                return message

            await super().__call__(scope, again, send)

    server = Refusing()
    with serving(server) as url, watching(url) as proxy:
        for _ in range(2):
            assert "lynxstop" not in stream(proxy.url, tools=[TOOL])[-1]
        assert proxy.count("lynxstop_passthrough_total", cause="tools") == 2
    assert server.asked == 1


def test_no_exit_is_taken_inside_a_call_that_the_thinking_shows() -> None:
    class Thinking(Calling):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def shown(message: Any) -> None:
                if "body" in message:
                    message["body"] = message["body"].replace(b"n1.", b"<tool_call>{")
                await send(message)

            await super().__call__(scope, receive, shown)

    with serving(Thinking()) as url, watching(url) as proxy:
        events = stream(proxy.url, tools=[TOOL])
        assert events[-1]["lynxstop"]["stopped"] is False
        assert joined(events, "reasoning").startswith("<tool_call>{ (Wait, no.")
        assert proxy.count("lynxstop_passthrough_total", cause="not_understood") == 0
