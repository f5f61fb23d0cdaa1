"""What the proxy relies on in llama.cpp's server; a new version that differs fails here first."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

PROBLEMS = Path(__file__).parents[2] / "data" / "problems" / "test.jsonl"
QUESTION = json.loads(PROBLEMS.read_text().splitlines()[0])["prompt"]
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
LOGPROBS = {"logprobs": True, "top_logprobs": 20}
USAGE = {"stream_options": {"include_usage": True}}
CLOSE, END = 520, 518
EXIT = ("\n", "\n\nThe answer is \\boxed{")


def events(url: str, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with httpx.stream("POST", f"{url}{path}", json=body | {"stream": True}, timeout=120) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def token_ids(chunks: list[dict[str, Any]]) -> list[int]:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return [entry["id"] for choice in choices for entry in (choice.get("logprobs") or {}).get("content", ())]


def deltas(chunks: list[dict[str, Any]], name: str) -> list[str]:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return [choice["delta"][name] for choice in choices if choice["delta"].get(name)]


@pytest.fixture(scope="module")
def prompt(llama_server: str) -> str:
    return str(httpx.post(f"{llama_server}/apply-template", json=ASKED).json()["prompt"])


@pytest.fixture(scope="module")
def whole(llama_server: str, prompt: str) -> list[int]:
    """Token ids of the full greedy answer."""
    body = {"prompt": prompt, "temperature": 0, "n_predict": 900, "return_tokens": True}
    ids: list[int] = httpx.post(f"{llama_server}/completion", json=body, timeout=120).json()["tokens"]
    return ids


def test_a_chat_streams_an_event_per_token(llama_server: str, whole: list[int]) -> None:
    chunks = list(events(llama_server, "/v1/chat/completions", ASKED | LOGPROBS | USAGE))
    # The parser eats the end of thinking and the end of the turn, their log-probabilities with them.
    assert token_ids(chunks) == [token for token in whole if token not in (CLOSE, END)]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}
    # The first piece repeats the end of the rendered prompt.
    assert deltas(chunks, "reasoning_content")[0].startswith("\nSolve")
    assert "".join(deltas(chunks, "content")).startswith(EXIT[1])
    first = chunks[1]["choices"][0]["logprobs"]["content"][0]
    assert len(first["top_logprobs"]) == 20
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(whole)


def test_logprobs_are_those_before_sampling(llama_server: str) -> None:
    tops = []
    for temperature in (0.0, 2.0):
        body = ASKED | LOGPROBS | {"temperature": temperature, "top_k": 1, "max_tokens": 3}
        chunks = list(events(llama_server, "/v1/chat/completions", body))
        tops.append(
            [top["logprob"] for top in chunks[2]["choices"][0]["logprobs"]["content"][0]["top_logprobs"]]
        )
    assert tops[0] == pytest.approx(tops[1], abs=1e-3)


def test_thinking_stays_in_the_content_when_asked(llama_server: str, whole: list[int]) -> None:
    body = ASKED | LOGPROBS | {"reasoning_format": "none"}
    chunks = list(events(llama_server, "/v1/chat/completions", body))
    assert token_ids(chunks) == whole[:-1]
    assert deltas(chunks, "content")[0].startswith("<think>\n")
    assert "</think>" in deltas(chunks, "content")


def test_completions_stream_every_token(llama_server: str, prompt: str, whole: list[int]) -> None:
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 900, "logprobs": 20}
    chunks = list(events(llama_server, "/v1/completions", body))
    assert token_ids(chunks) == whole
    assert "</think>" in [chunk["choices"][0]["text"] for chunk in chunks]
    assert chunks[-1]["usage"]["completion_tokens"] == len(whole)


def test_a_cut_chat_goes_on_behind_the_exit(llama_server: str, prompt: str, whole: list[int]) -> None:
    chunks = events(llama_server, "/v1/chat/completions", ASKED | LOGPROBS)
    begun = [next(chunks) for _ in range(41)]
    chunks.close()  # type: ignore[attr-defined]
    thought = "".join(deltas(begun, "reasoning_content"))
    prefix = {"role": "assistant", "reasoning_content": thought + EXIT[0], "content": EXIT[1]}
    messages = [*ASKED["messages"], prefix]
    rendered = httpx.post(f"{llama_server}/apply-template", json={"messages": messages}).json()["prompt"]
    # The prompt ends with the line break that the thought begins with.
    assert rendered == prompt.removesuffix("\n") + thought + EXIT[0] + "</think>" + EXIT[1]

    tail = {"continue_final_message": True, "add_generation_prompt": False}
    rest = list(events(llama_server, "/v1/chat/completions", ASKED | {"messages": messages} | tail))
    text = "".join(deltas(rest, "content"))
    assert not deltas(rest, "reasoning_content")
    body = {"prompt": rendered, "temperature": 0, "max_tokens": 20}
    raw = httpx.post(f"{llama_server}/v1/completions", json=body).json()["choices"][0]["text"]
    assert text == raw
    assert text.endswith("}.")


def test_thinking_ends_on_command_in_the_same_stream(llama_server: str) -> None:
    # Held off by its bias, the end of thinking comes only when it is forced.
    body = ASKED | {"logit_bias": {str(CLOSE): -100}, "max_tokens": 1900}
    body |= {"reasoning_control": True, "reasoning_budget_message": EXIT[0]}

    def stopped(client: httpx.Client) -> tuple[list[dict[str, Any]], bool]:
        chunks, success = [], False
        for chunk in events(llama_server, "/v1/chat/completions", body):
            chunks.append(chunk)
            if len(chunks) == 20:
                command = {"id": chunk["id"], "action": "reasoning_end"}
                success = client.post("/v1/chat/completions/control", json=command).json()["success"]
        return chunks, success

    with httpx.Client(base_url=llama_server) as client:
        # A busy machine may be done before the command is sent: it does not wait for a slow reader.
        chunks, _ = next(tried for tried in (stopped(client) for _ in range(20)) if tried[1])
    assert "".join(deltas(chunks, "content")).startswith(EXIT[1])
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_lost_client_stops_the_work(llama_server: str) -> None:
    def predicted() -> float:
        lines = httpx.get(f"{llama_server}/metrics").text.splitlines()
        return next(
            float(line.split()[1]) for line in lines if line.startswith("llamacpp:tokens_predicted_total")
        )

    before = predicted()
    body = ASKED | LOGPROBS | {"max_tokens": 1900, "ignore_eos": True}
    chunks = events(llama_server, "/v1/chat/completions", body)
    for _ in range(30):
        next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    for _ in range(600):
        if not any(slot["is_processing"] for slot in httpx.get(f"{llama_server}/slots").json()):
            break
        time.sleep(0.1)
    # Measured: 30 of 1900; a busy machine reads later than the server writes.
    assert 29 <= predicted() - before < 1500
