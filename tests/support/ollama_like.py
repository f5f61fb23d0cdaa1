"""A server that answers as Ollama does, by its source; its model is the mock server's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from lynxstop.testing.reasoner import ASSISTANT, complete, render
from lynxstop.testing.tokens import Token, weigh

Json = dict[str, Any]
TOP = 20


class OllamaLike:
    """Renders on a debugging switch, streams lines natively, and takes no raw prompt but there.

    Attributes
    ----------
    debug : bool
        Whether the switch is there.
    asked : list of (str, dict)
        Requests.
    """

    def __init__(self, *, debug: bool = True) -> None:
        self.debug = debug
        self.asked: list[tuple[str, Json]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        asked = json.loads(body or b"{}")
        self.asked.append((scope["path"], asked))
        kind = b"application/json"
        pieces: Iterator[bytes] = iter(())
        match scope["path"]:
            case "/v1/models":
                pieces = iter([orjson.dumps({"data": [{"id": "toy", "owned_by": "library"}]})])
            case "/api/version":
                pieces = iter([b'{"version": "0.12.0"}'])
            case "/api/chat":
                shown = _prompt(asked["messages"]) if self.debug and asked["_debug_render_only"] else None
                found = {"_debug_info": {"rendered_template": shown}} if shown else {"message": {}}
                pieces = iter([orjson.dumps(found)])
            case "/v1/chat/completions":
                kind, pieces = b"text/event-stream", _chat(asked)
            case "/api/generate":
                assert asked["raw"] is True
                assert asked["think"] is False
                kind, pieces = b"application/x-ndjson", _generate(asked)
        status = 200 if kind != b"application/json" or body or scope["method"] == "GET" else 404
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _prompt(messages: list[Json]) -> str:
    return render(messages, generate=True, opened=False, resume=False)


def _said(prompt: str, limit: int | None) -> tuple[list[Token], str]:
    tokens = weigh(prompt.rpartition(ASSISTANT)[2], complete(prompt), 0, rivals=True)
    return (tokens, "stop") if limit is None or len(tokens) <= limit else (tokens[:limit], "length")


def _count(text: str) -> int:
    return len(weigh("", text, 0, rivals=False))


def _logprobs(token: Token) -> list[Json]:
    def entry(text: str, value: float) -> Json:
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    top = sorted([(token.text, token.logprob), *token.rivals], key=lambda pair: -pair[1])[:TOP]
    return [entry(token.text, token.logprob) | {"top_logprobs": [entry(*pair) for pair in top]}]


def _chat(asked: Json) -> Iterator[bytes]:
    prompt = _prompt(asked["messages"])
    tokens, finish = _said(prompt, asked.get("max_tokens"))
    for token in tokens:
        # The role in every event, the content always there; delimiters have log-probabilities and no text.
        delta = {"role": "assistant", "content": token.text if token.part == "answer" else ""}
        if token.part == "thinking":
            delta["reasoning"] = token.text
        choice: Json = {"index": 0, "delta": delta, "finish_reason": None}
        if asked.get("logprobs"):
            choice["logprobs"] = {"content": _logprobs(token)}
        yield b"data: " + orjson.dumps({"id": "chatcmpl-1", "choices": [choice]}) + b"\n\n"
    last = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": finish}
    yield b"data: " + orjson.dumps({"id": "chatcmpl-1", "choices": [last]}) + b"\n\n"
    if (asked.get("stream_options") or {}).get("include_usage"):
        usage = {"prompt_tokens": _count(prompt), "completion_tokens": len(tokens)}
        yield b"data: " + orjson.dumps({"id": "chatcmpl-1", "choices": [], "usage": usage}) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _generate(asked: Json) -> Iterator[bytes]:
    tokens, finish = _said(asked["prompt"], asked["options"].get("num_predict"))
    for token in tokens:
        line: Json = {"model": "toy", "response": token.text, "done": False}
        yield orjson.dumps(line | ({"logprobs": _logprobs(token)} if asked.get("logprobs") else {})) + b"\n"
    counts = {"prompt_eval_count": _count(asked["prompt"]), "eval_count": len(tokens)}
    yield (
        orjson.dumps({"model": "toy", "response": "", "done": True, "done_reason": finish, **counts}) + b"\n"
    )
