"""The proxy in front of llama.cpp's real server."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from typer.testing import CliRunner

from lynxstop.cli import app
from lynxstop.remote.dialects.llamacpp import LlamaCpp
from tests.support.servers import Proxied
from tests.support.watching import EXIT, watching

PROBLEMS = Path(__file__).parents[2] / "data" / "problems" / "test.jsonl"
QUESTIONS = [json.loads(line)["prompt"] for line in PROBLEMS.read_text().splitlines()[:6]]
CLOSE = 520
ANSWER = EXIT.partition("</think>")[2]


def body(question: str = QUESTIONS[0], **more: Any) -> dict[str, Any]:
    return {
        "model": "reasoner",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        **more,
    }


def stream(url: str, asked: dict[str, Any], headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    path = f"{url}/v1/chat/completions"
    with httpx.stream("POST", path, json=asked | options, headers=headers, timeout=120) as answer:
        assert answer.status_code == 200
        lines = list(answer.iter_lines())
    assert lines.count("data: [DONE]") == 1
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def texts(events: list[dict[str, Any]]) -> tuple[str, str]:
    """Thinking and answer."""
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return (
        "".join(delta.get("reasoning_content") or "" for delta in deltas),
        "".join(delta.get("content") or "" for delta in deltas),
    )


def raw(url: str, question: str, said: str) -> dict[str, Any]:
    """What the server writes behind a text of its own."""
    prompt = httpx.post(f"{url}/apply-template", json=body(question)).json()["prompt"]
    asked = {"prompt": prompt + said, "temperature": 0, "max_tokens": 200}
    found: dict[str, Any] = httpx.post(f"{url}/v1/completions", json=asked, timeout=120).json()
    return found


def predicted(url: str) -> float:
    """Tokens generated so far, once nothing runs any more."""
    for _ in range(600):
        if not any(slot["is_processing"] for slot in httpx.get(f"{url}/slots").json()):
            break
        time.sleep(0.1)
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(
        float(line.split()[1]) for line in lines if line.startswith("llamacpp:tokens_predicted_total")
    )


@pytest.fixture(scope="module")
def proxy(llama_server: str) -> Iterator[Proxied]:
    with watching(llama_server, dialect=LlamaCpp()) as made:
        yield made


@pytest.mark.parametrize("before", [True, False])
def test_the_answer_is_the_one_that_the_cut_text_has(llama_server: str, before: bool) -> None:
    with watching(llama_server, dialect=LlamaCpp(), before=before) as proxy:
        for question in QUESTIONS:
            events = stream(proxy.url, body(question))
            thinking, content = texts(events)
            whole, _ = texts(stream(llama_server, body(question)))
            kept = thinking.removesuffix("\n")
            # then the thinking is cut at its first cue, in front of it or behind it
            assert whole.startswith(kept)
            assert len(kept) < len(whole)
            assert ("Wait" in kept) is not before
            # then the prompt, which ends with the line break that the thinking begins with, is continued
            same = raw(llama_server, question, thinking.removeprefix("\n") + "</think>" + ANSWER)
            assert content == ANSWER + same["choices"][0]["text"]
            usage, report = events[-1]["usage"], events[-1]["lynxstop"]
            told = usage["prompt_tokens"] + usage["completion_tokens"]
            assert told == same["usage"]["total_tokens"]
            assert usage["completion_tokens_details"]["reasoning_tokens"] == report["thinking_tokens"]
            assert report["stopped"] is True


def test_what_arrives_is_one_answer(proxy: Proxied) -> None:
    events = stream(proxy.url, body())
    assert len({event["id"] for event in events}) == 1
    choices = [choice for event in events for choice in event["choices"]]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert not any(choice.get("logprobs") for choice in choices)
    # then it is what is gathered for a client that does not stream
    answer = httpx.post(f"{proxy.url}/v1/chat/completions", json=body(), timeout=120).json()
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == texts(events)
    assert answer["usage"] == events[-1]["usage"]


def test_thinking_in_the_content_is_cut_too(proxy: Proxied) -> None:
    thinking, content = texts(stream(proxy.url, body()))
    nothing, all_of_it = texts(stream(proxy.url, body(reasoning_format="none")))
    assert nothing == ""
    assert all_of_it == f"<think>{thinking}</think>{content}"


def test_log_probabilities_come_if_they_were_asked_for(proxy: Proxied) -> None:
    events = stream(proxy.url, body(logprobs=True, top_logprobs=2))
    entries = [
        entry
        for event in events
        for choice in event["choices"]
        for entry in (choice.get("logprobs") or {}).get("content", ())
    ]
    # Those of the exit's own text have no alternatives.
    own = [entry for entry in entries if len(entry["top_logprobs"]) != 2]
    assert len(entries) > len(own) > 0
    assert all(entry["logprob"] == 0 and entry["top_logprobs"] == [] for entry in own)
    assert "".join(entry["token"] for entry in own) == EXIT.replace("</think>", "")


def test_a_stream_that_is_not_stopped_is_the_servers_own(llama_server: str) -> None:
    with watching(llama_server, math.inf, dialect=LlamaCpp()) as proxy:
        own, seen = stream(llama_server, body()), stream(proxy.url, body())
    assert seen[-1].pop("lynxstop")["exit"] is None
    for event in (*own, *seen):
        for name in ("id", "created", "timings"):
            event.pop(name, None)
        (event.get("usage") or {}).pop("prompt_tokens_details", None)
    assert seen == own


def test_the_openai_client_reads_it(proxy: Proxied) -> None:
    client = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0)
    whole = client.chat.completions.create(**body())
    said = ""
    for event in client.chat.completions.create(**body(), stream=True):
        said += event.choices[0].delta.content or "" if event.choices else ""
    assert said == whole.choices[0].message.content
    assert said.startswith(ANSWER)


@pytest.mark.parametrize("headers", [{}, {"X-Conversation-Id": "17"}])
def test_the_server_stops_at_the_cut(llama_server: str, proxy: Proxied, headers: dict[str, str]) -> None:
    # given thinking that would not end by itself
    endless = body(logit_bias={str(CLOSE): -100}, max_tokens=1900)
    before = predicted(llama_server)
    closed = proxy.count("lynxstop_upstream_aborts_total", cause="closed")
    events = stream(proxy.url, endless, headers)
    assert events[-1]["usage"]["completion_tokens"] < 300
    assert proxy.count("lynxstop_upstream_aborts_total", cause="closed") == closed + 1
    # Idle it is a few more than the client gets; a busy machine reads later than the server writes.
    assert predicted(llama_server) - before < 1500


def test_requests_follow_each_other_on_connections_that_the_server_closes(llama_server: str) -> None:
    for transport in ("httpx", "aiohttp"):
        sections = {"upstream": {"transport": transport}}
        with watching(llama_server, dialect=LlamaCpp(), sections=sections) as proxy:
            for _ in range(4):
                assert texts(stream(proxy.url, body()))[1].startswith(ANSWER)


def test_the_doctor_knows_it(llama_server: str) -> None:
    made = CliRunner().invoke(app, ["doctor", llama_server, "--json"])
    assert made.exit_code == 0, made.stderr
    found = json.loads(made.stdout)
    assert found["kind"] == "llamacpp"
    assert found["version"]
    assert found["thinking"] == "reasoning_content"
    assert found["logprobs"] == 20
    assert found["per_token"] is found["in_thinking"] is found["token_ids"] is found["verified"] is True
    assert found["reasoning_tokens"] is False
    assert found["mode"] == "stream"
    assert found["overshoot"] is None or 0 < found["overshoot"] <= 256


def test_any_server_of_the_protocol_is_tried_out(llama_server: str) -> None:
    made = CliRunner().invoke(app, ["doctor", llama_server, "--dialect", "openai", "--json"])
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["continuation"] == "/v1/completions from text"
