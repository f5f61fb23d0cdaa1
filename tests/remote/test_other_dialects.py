"""Dialects of servers that differ from vLLM, against what such servers say.

llama.cpp's events are recorded from the real server; SGLang's and Ollama's are written from their sources.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
import pytest

from lynxstop.errors import UpstreamError
from lynxstop.remote.dialects.base import AnswerLimits, Dialect, Kept, Opening
from lynxstop.remote.dialects.llamacpp import LlamaCpp
from lynxstop.remote.dialects.ollama import Ollama
from lynxstop.remote.dialects.openai import OpenAI
from lynxstop.remote.dialects.sglang import SGLang
from lynxstop.remote.dialects.table import detect
from lynxstop.remote.http.sse import Bursts
from lynxstop.remote.tokens import StreamToken

EXIT = "\n</think>\n\nSo "
BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "Why?"}],
    "temperature": 0.9,
    "max_tokens": 100,
    "logprobs": True,
    "stop": ["X"],
    "reasoning_effort": "low",
    "rid": "mine",
}


class Scripted:
    """A server that answers paths with documents."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Any]] = []

    async def call(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        self.asked.append((path, body))
        if path not in self.answers:
            raise UpstreamError("Not found.")
        return self.answers[path]

    async def text(self, path: str) -> bytes:
        found = self.answers.get(path, b"")
        return found if isinstance(found, bytes) else orjson.dumps(found)

    def events(self, path: str, body: Mapping[str, Any]) -> AbstractAsyncContextManager[Bursts]:
        raise UpstreamError("Not found.")


def kept(*texts: str, by_field: bool = True) -> Kept:
    return Kept([StreamToken(text.encode()) for text in texts], b"", EXIT, (), "<think>", by_field)


def entry(text: str, logprob: float = -0.5, **more: Any) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), **more}


def chat(delta: dict[str, Any], *entries: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"choices": [choice | ({"logprobs": {"content": list(entries)}} if entries else {})]}


def continued(dialect: Dialect, server: Scripted, what: Kept) -> tuple[str, dict[str, Any]]:
    call = asyncio.run(dialect.continuation(server, Opening(BODY), what, AnswerLimits(40, 3)))
    return call.path, call.body


@pytest.mark.parametrize(
    ("rendered", "texts", "by_field", "prompt"),
    [
        # The template opens the block; the stream repeats the line break after it.
        ("<u>Why?<a><think>\n", ["\nSolve", " it"], True, "<u>Why?<a><think>\nSolve it"),
        ("<u>Why?<a><think>\n", ["Solve"], True, "<u>Why?<a><think>\nSolve"),
        ("<u>Why?<a><think>\n", ["\n\nSolve"], True, "<u>Why?<a><think>\n\nSolve"),
        # The model opens it, and the parser takes the delimiter out.
        ("<u>Why?<a>\n", ["\nSolve"], True, "<u>Why?<a>\n<think>\nSolve"),
        # The delimiter is in the text: the server's own repetition of the template, or the model's word.
        ("<u>Why?<a><think>\n", ["<think>\nSolve"], False, "<u>Why?<a><think>\nSolve"),
        ("<u>Why?<a>\n", ["<think>", "\nSolve"], False, "<u>Why?<a>\n<think>\nSolve"),
    ],
)
def test_llamacpp_continues_the_text_that_the_model_has_read(
    rendered: str, texts: Sequence[str], by_field: bool, prompt: str
) -> None:
    server = Scripted({"/apply-template": {"prompt": rendered}})
    path, body = continued(LlamaCpp(), server, kept(*texts, by_field=by_field))
    assert path == "/v1/completions"
    assert body["prompt"] == prompt + EXIT
    assert (body["max_tokens"], body["logprobs"]) == (40, 3)
    assert (body["temperature"], body["stop"]) == (0.9, ["X"])
    assert not {"messages", "reasoning_effort", "top_logprobs"} & set(body)


def test_llamacpp_counts_text_that_its_tokens_do_not_show() -> None:
    read = LlamaCpp().read
    first = read(chat({"reasoning_content": "\nSolve"}, entry("Solve", id=337)))
    assert [token.text for token in first.tokens] == [b"\nSolve"]
    assert first.tokens[0].logprob == -0.5
    second = read(chat({"reasoning_content": " it"}, entry(" it", id=5)))
    assert [(token.text, token.id) for token in second.tokens] == [(b" it", 5)]
    assert read({"choices": [], "usage": {"completion_tokens": 3}}).usage == {"completion_tokens": 3}


def test_llamacpp_ends_a_completion_with_a_token_without_text() -> None:
    read = LlamaCpp().read_continuation
    event = {"choices": [{"text": "", "logprobs": {"content": [entry("")]}, "finish_reason": None}]}
    assert not read(event).tokens
    usage = {"prompt_tokens": 9}
    last = read({"choices": [{"text": "", "finish_reason": "stop"}], "usage": usage})
    assert (last.finish, last.usage) == ("stop", usage)


def test_sglang_puts_all_tokens_after_the_rendered_prompt() -> None:
    server = Scripted({})
    path, body = continued(SGLang(), server, kept("<think>", "\nSolve"))
    assert path == "/v1/chat/completions"
    assert body["messages"][-1] == {"role": "assistant", "content": "<think>\nSolve" + EXIT}
    assert body["continue_final_message"] is True
    assert body["separate_reasoning"] is False
    # The first request may still be ending under its name.
    assert "rid" not in body
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (40, True, 3)
    assert not server.asked
    # A block that the template opens is open in the rendered prompt.
    assert continued(SGLang(), server, kept("Solve"))[1]["messages"][-1]["content"] == "Solve" + EXIT


def test_sglang_shows_tokens_of_text_that_its_parser_takes_out() -> None:
    delta = SGLang().read(chat({}, entry("<think>"), entry("\n")))
    assert [token.text for token in delta.tokens] == [b"<think>", b"\n"]
    # What continues is the answer, whatever field it comes in.
    assert SGLang().read_continuation(chat({"reasoning_content": "2."})).content == "2."


def test_ollama_renders_by_its_debugging_switch_and_continues_raw() -> None:
    rendered = {"_debug_info": {"rendered_template": "<u>Why?<a>\n"}}
    server = Scripted({"/api/chat": rendered})
    path, body = continued(Ollama(), server, kept("<think>", "\nSolve"))
    assert path == "/api/generate"
    assert body["prompt"] == "<u>Why?<a>\n<think>\nSolve" + EXIT
    assert (body["raw"], body["think"], body["stream"]) == (True, False, True)
    assert body["options"] == {"temperature": 0.9, "top_p": 1.0, "stop": ["X"], "num_predict": 40}
    [(_, asked)] = server.asked
    assert asked["_debug_render_only"] is True
    assert asked["think"] == "low"
    assert asked["messages"] == BODY["messages"]


def test_ollama_without_the_switch_continues_nothing() -> None:
    with pytest.raises(UpstreamError, match="rendered prompt"):
        continued(Ollama(), Scripted({"/api/chat": {"message": {"content": "42"}}}), kept("a"))


def test_ollama_streams_lines_of_its_own() -> None:
    read = Ollama().read_continuation
    delta = read({"response": "2", "done": False, "logprobs": [entry("2", -0.25)]})
    assert (delta.content, delta.finish) == ("2", None)
    assert [(token.text, token.logprob) for token in delta.tokens] == [(b"2", -0.25)]
    last = read(
        {"response": "", "done": True, "done_reason": "length", "prompt_eval_count": 9, "eval_count": 2}
    )
    assert last.finish == "length"
    assert last.usage == {"prompt_tokens": 9, "completion_tokens": 2}


@pytest.mark.parametrize(("lead", "put"), [("", ""), ("{open}", "<think>"), ("{open}\n", "<think>\n")])
def test_a_resumed_message_opens_its_block_where_the_template_does_not(lead: str, put: str) -> None:
    way = OpenAI("resume", lead)
    _, body = continued(way, Scripted({}), kept("Solve"))
    assert body["messages"][-1]["content"] == put + "Solve" + EXIT
    _, body = continued(way, Scripted({}), kept("<think>", "Solve"))
    assert body["messages"][-1]["content"] == "<think>Solve" + EXIT


def test_a_request_without_a_limit_is_continued_without_one() -> None:
    # Servers of OpenAI's completions take 16 tokens where the key is missing.
    server, opening = Scripted({"/tokenize": {"tokens": [1]}}), Opening({**BODY, "max_tokens": None})
    way = OpenAI("tokens", "")
    call = asyncio.run(way.continuation(server, opening, kept("Solve"), AnswerLimits(None)))
    assert call.body["max_tokens"] is None


@pytest.mark.parametrize(
    ("answers", "name"),
    [
        ({"/v1/models": {"data": [{"id": "m", "owned_by": "vllm"}]}}, "vllm"),
        ({"/v1/models": {"data": [{"id": "m", "owned_by": "sglang"}]}}, "sglang"),
        ({"/v1/models": {"data": [{"id": "m", "owned_by": "llamacpp"}]}}, "llamacpp"),
        ({"/v1/models": {"data": [{"owned_by": "me"}]}, "/api/version": {"version": "0.12"}}, "ollama"),
        ({"/v1/models": {"data": []}, "/props": {"default_generation_settings": {}}}, "llamacpp"),
        ({"/v1/models": {"data": [{"owned_by": "me"}]}, "/props": b"<html>"}, "openai"),
        ({"/v1/models": {}}, "openai"),
        ({"/v1/models": {"data": 7}}, "openai"),
        ({"/v1/models": {"data": [None, "m", {"owned_by": "vllm"}]}}, "openai"),
    ],
)
def test_servers_are_known_by_what_they_say(answers: Mapping[str, Any], name: str) -> None:
    assert asyncio.run(detect(Scripted(answers))) == name
