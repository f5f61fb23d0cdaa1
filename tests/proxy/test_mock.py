"""The mock server: an OpenAI API for real, a model that revises its answer, faults on demand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from lynxstop.remote.http.sse import EventSplitter, event_data
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.servers import eventually, serving

ASK = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2?"}]}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(MockServer()) as address:
        yield address


def ask(url: str, mock: str = "", path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    body = ({} if "prompt" in more else ASK) | more
    return httpx.post(url + path, json=body, headers={"x-mock": mock}, timeout=30)


def events(raw: bytes) -> list[Any]:
    found = [event_data(event) for event in EventSplitter().feed(raw + b"\n")]
    return [json.loads(data) for data in found if data is not None and data != b"[DONE]"]


def joined(chunks: list[Any], name: str) -> str:
    return "".join(choice["delta"].get(name) or "" for chunk in chunks for choice in chunk["choices"])


def test_the_openai_client_reads_thinking_answer_logprobs_and_usage(url: str) -> None:
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    whole = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=20)  # type: ignore[call-overload]
    streamed = list(
        client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    )

    message = whole.choices[0].message
    assert message.content == "\n\nThe answer is \\boxed{17}."
    assert "Wait," in message.reasoning or "Hmm," in message.reasoning
    assert whole.choices[0].finish_reason == "stop"
    entries = whole.choices[0].logprobs.content
    assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in entries)
    assert all(len(entry.top_logprobs) == 20 for entry in entries)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed[:-1]) == message.content
    assert streamed[-1].usage == whole.usage
    assert whole.usage.completion_tokens_details.reasoning_tokens > 30


def test_any_prefix_is_continued_and_a_closed_one_gives_the_answer_held(url: str) -> None:
    rendered = "<|user|>\nWhat is 7 + 5 * 2?\n<|assistant|>\n"
    whole = ask(url, path="/v1/completions", prompt=rendered).json()["choices"][0]["text"]
    first = whole.index(".\n", whole.index("answer is"))
    cut = whole[: first + 2]

    rest = ask(url, path="/v1/completions", prompt=rendered + cut).json()["choices"][0]["text"]
    closed = cut + "</think>\n\nThe answer is \\boxed{"
    forced = ask(url, path="/v1/completions", prompt=rendered + closed).json()["choices"][0]["text"]
    chat = [*ASK["messages"], {"role": "assistant", "content": cut + "</think>"}]
    resumed = ask(url, messages=chat, continue_final_message=True, add_generation_prompt=False).json()

    assert cut + rest == whole
    assert "answer is 16.\n" in cut
    assert forced == "16}."
    assert resumed["choices"][0]["message"]["content"] == "\n\nThe answer is \\boxed{16}."


def test_token_ids_stand_for_their_text(url: str) -> None:
    rendered = "<|user|>\nWhat is 7 + 5 * 2?\n<|assistant|>\n"
    ids = httpx.post(url + "/tokenize", json=ASK).json()["tokens"]

    by_ids = ask(url, path="/v1/completions", prompt=ids, return_token_ids=True).json()["choices"][0]
    by_text = ask(url, path="/v1/completions", prompt=rendered).json()["choices"][0]

    assert by_ids["text"] == by_text["text"]
    back = httpx.post(url + "/detokenize", json={"tokens": by_ids["token_ids"]}).json()
    assert back["prompt"] == by_ids["text"]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking", "raw"])
def test_thinking_arrives_in_the_field_asked_for(url: str, name: str) -> None:
    chunks = events(ask(url, f"reasoning={name}", stream=True).content)
    field = "content" if name == "raw" else name

    assert "So the answer is" in joined(chunks, field)
    assert ("<think>" in joined(chunks, "content")) == (name == "raw")


@pytest.mark.parametrize("framing", ["lf", "crlf", "cr", "mixed"])
@pytest.mark.parametrize("split", [0, 1, 7])
def test_framing_changes_no_event(url: str, framing: str, split: int) -> None:
    plain = events(ask(url, stream=True).content)
    odd = events(ask(url, f"framing={framing}, split={split}, pings=3", stream=True).content)

    assert joined(odd, "reasoning") == joined(plain, "reasoning")
    assert joined(odd, "content") == joined(plain, "content")


def test_several_tokens_in_an_event_keep_their_logprobs(url: str) -> None:
    chunks = events(ask(url, "tokens_per_event=4", stream=True, logprobs=True, top_logprobs=2).content)
    filled = [choice for chunk in chunks for choice in chunk["choices"] if choice["logprobs"]]

    assert max(len(choice["logprobs"]["content"]) for choice in filled) == 4
    for choice in filled:
        text = "".join(choice["delta"].values())
        assert "".join(entry["token"] for entry in choice["logprobs"]["content"]) == text


def test_stop_length_n_and_tools(url: str) -> None:
    stopped = ask(url, path="/v1/completions", prompt="7 + 5 * 2", stop=["Wait", "Hmm", "Alter"]).json()
    short = ask(url, max_tokens=5).json()
    many = ask(url, n=3).json()["choices"]
    tools = events(ask(url, stream=True, tools=[{"type": "function"}]).content)

    assert stopped["choices"][0]["text"].endswith(".\n")
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] == 5
    assert len({choice["message"]["reasoning"] for choice in many}) == 3
    assert tools[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert tools[-1]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "check"


def test_confidence_follows_whether_the_answer_held_is_the_last_one(url: str) -> None:
    right: list[Any] = []
    wrong: list[Any] = []
    for number in range(25):
        asked = [{"role": "user", "content": f"What is {number} + 5 * 2?"}]
        choice = ask(url, messages=asked, logprobs=True, top_logprobs=5).json()["choices"][0]
        last = choice["message"]["content"].partition("{")[2].partition("}")[0]
        held = None
        for before, entry in zip(
            choice["logprobs"]["content"], choice["logprobs"]["content"][1:], strict=False
        ):
            if before["token"] == " is" and entry["token"].strip().lstrip("-").isdigit():
                held = entry["token"].strip()
            elif entry["token"] in ("Wait", "Hmm", "Alternatively"):
                (right if held == last else wrong).append(entry["logprob"])

    assert len(right) > 10
    assert len(wrong) > 10
    assert min(right) > max(wrong)


def test_a_client_that_leaves_is_counted_and_no_more_tokens_are_made(url: str) -> None:
    httpx.delete(url + "/stats")
    with (
        httpx.Client() as client,
        client.stream(
            "POST",
            url + "/v1/chat/completions",
            json=ASK | {"stream": True},
            headers={"x-mock": "delay=0.005, checks=500"},
        ) as response,
    ):
        next(response.iter_raw())
    stats = settled(url)

    assert stats["aborted"] == 1
    assert stats["tokens"] < 1000
    assert httpx.get(url + "/stats").json()["tokens"] == stats["tokens"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "fault", ["before-headers", "after-headers", "mid-thinking", "mid-answer", "before-done"]
)
def test_a_death_is_seen_as_one(url: str, fault: str, stream: bool) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        ask(url, f"fault={fault}", stream=stream)


def test_other_faults(url: str) -> None:
    assert ask(url, "fault=status-429").status_code == 429
    assert b'"error"' in ask(url, "fault=error-event", stream=True).content
    assert len(ask(url, "fault=huge-line", stream=True).content) > 2**20
    with pytest.raises(UnicodeDecodeError):
        ask(url, "fault=charset", stream=True).content.decode()
    with pytest.raises(json.JSONDecodeError):
        events(ask(url, "fault=garbage", stream=True).content)
    assert "Settings:" in ask(url, "speed=3").json()["error"]["message"]


WRONG: tuple[dict[str, Any], ...] = (
    {"n": 10**9}, {"n": 10**30}, {"n": 0}, {"n": "2"}, {"max_tokens": 10**9}, {"max_tokens": 1.5},
    {"top_logprobs": -1}, {"top_logprobs": "x"}, {"logprobs": "x"}, {"stop": 5}, {"stop": [5]},
    {"messages": "x"}, {"stream_options": "x"}, {"response_format": [1]}, {"stream": "yes"}, {"tools": 5},
    {"seed": True}, {"messages": [1]},
)  # fmt: skip


def test_what_a_real_server_refuses_is_refused(url: str) -> None:
    assert ask(url, top_logprobs=21).status_code == 400
    assert ask(url, continue_final_message=True).status_code == 400
    assert ask(url, "completions=false", path="/v1/completions", prompt="x").status_code == 404
    assert httpx.post(url + "/v1/chat/completions", content=b"{").status_code == 400
    for wrong in WRONG:
        refusal = ask(url, **wrong)
        assert refusal.status_code == 400, wrong
        assert refusal.json()["error"]["message"].startswith(f"{next(iter(wrong))}: ")
    for wrong in ({"prompt": ["a"]}, {"prompt": [1.5]}, {"prompt": "x", "logprobs": 10**9}):
        assert httpx.post(url + "/v1/completions", json=wrong).status_code == 400
    assert httpx.post(url + "/detokenize", json={"tokens": "x"}).status_code == 400
    assert MockSettings().with_header("delay=0.5").delay == 0.5


def test_no_request_makes_it_write_without_end(url: str) -> None:
    assert ask(url, "checks=1000000000").status_code == 400
    assert ask(url, "delay=inf").status_code == 400
    refusal = ask(url, "checks=1000", n=128)
    assert refusal.status_code == 400
    assert "more than 65536 tokens" in refusal.json()["error"]["message"]
    assert len(ask(url, n=128).json()["choices"]) == 128
    large = [{"role": "user", "content": "What is 3 + 4? " + "x " * 2**16}]
    assert ask(url, messages=large).status_code == 200
    assert httpx.get(url + "/stats").json()["recent"][-1]["body"] == {}


def settled(url: str) -> Any:
    eventually(lambda: not httpx.get(url + "/stats").json()["active"])
    return httpx.get(url + "/stats").json()
