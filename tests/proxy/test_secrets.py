"""Keys and prompts stay out of everything that the proxy writes, whatever goes wrong."""

from __future__ import annotations

import io
import json
import logging
from contextlib import redirect_stderr
from typing import Any

import httpx
import orjson
import pytest

from lynxstop.proxy import logs
from lynxstop.testing.server import MockServer
from tests.support.canned import CHAT, chat
from tests.support.servers import command, eventually, serving
from tests.support.watching import watching

KEY, OTHER, THEIRS, PROMPT = "sk-ours-1", "sk-wrong-2", "sk-theirs-3", "zebra 7 + 5 * 2"
SECRETS = (KEY, OTHER, THEIRS, "zebra")
ASK: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": PROMPT}], "stream": True}

NONSENSE = b'{"choices": [{"delta": zebra'
# Valid JSON, and not what a chat's events are.
UNREADABLE = [
    {"choices": [{"index": 0, "delta": {"content": {"zebra": 1}}}]},
    {
        "choices": [
            {"index": 0, "delta": {"reasoning": "zebra"}, "logprobs": {"content": [{"token": "zebra"}]}}
        ]
    },
    {"choices": [{"index": 0, "delta": {"reasoning": "zebra"}, "logprobs": {"content": "zebra"}}]},
    {"choices": [], "usage": "zebra"},
    {"choices": ["zebra"]},
]


class Garbling:
    """Streams an event that is none among those of a chat."""

    def __init__(self, event: dict[str, Any] | bytes) -> None:
        first, *rest = map(orjson.dumps, chat("00001"))
        frames = [first, event if isinstance(event, bytes) else orjson.dumps(event), *rest]
        self.body = b"".join(b"data: " + frame + b"\n\n" for frame in [*frames, b"[DONE]"])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()
        kind = b"application/json" if scope["path"] == "/tokenize" else b"text/event-stream"
        body = b'{"tokens": [9]}' if scope["path"] == "/tokenize" else self.body
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Any:
    """All that goes to stderr, by the proxy's own logging and by any other."""
    stream = io.StringIO()
    with redirect_stderr(stream):
        logs.configure(logging.DEBUG)
        root = logging.StreamHandler(stream)
        logging.getLogger().addHandler(root)
        try:
            yield stream
        finally:
            logging.getLogger().removeHandler(root)
            for name in ("lynxstop", "uvicorn.error"):
                logging.getLogger(name).handlers = []
                logging.getLogger(name).propagate = True
                logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("event", UNREADABLE)
def test_events_that_are_passed_on_unread_are_not_repeated_elsewhere(
    written: io.StringIO, event: dict[str, Any], stream: bool
) -> None:
    with serving(Garbling(event)) as url, watching(url) as proxy:
        answer = httpx.post(proxy.url + CHAT, json={**ASK, "stream": stream}, timeout=30)
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
        shown = httpx.get(proxy.url + "/metrics").text
    assert answer.status_code == 200
    assert '"finish_reason":"stop"' in answer.text
    for secret in SECRETS:
        assert secret not in written.getvalue() + shown


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("event", [NONSENSE])
def test_events_that_make_no_sense_are_reported_and_not_repeated(
    written: io.StringIO, event: bytes, stream: bool
) -> None:
    headers = {"authorization": f"Bearer {KEY}", "x-api-key": OTHER, "cookie": f"session={THEIRS}"}
    with serving(Garbling(event)) as url, watching(url) as proxy:
        body = {**ASK, "stream": stream}
        answer = httpx.post(f"{proxy.url}{CHAT}?key={KEY}", json=body, headers=headers, timeout=30)
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
        shown = httpx.get(proxy.url + "/metrics").text
    last = answer.text.strip().split("\n\n")[-1].removeprefix("data: ")
    assert json.loads(last)["error"]["message"]
    assert (answer.status_code >= 500) is not stream
    assert "[DONE]" not in answer.text
    assert "error" in written.getvalue()
    for secret in (KEY, OTHER, THEIRS):
        assert secret not in answer.text
    for secret in SECRETS:
        assert secret not in written.getvalue() + shown


def test_the_command_writes_lines_of_json_without_keys() -> None:
    variables = {"LYNXSTOP_SERVE_API_KEYS": KEY, "LYNXSTOP_UPSTREAM_API_KEY": THEIRS}
    answers: list[str] = []
    with serving(MockServer()) as url, command("--upstream", url, **variables) as (process, proxy, lines):

        def ask(path: str = CHAT, key: str = KEY, **headers: str) -> None:
            given = {"authorization": f"Bearer {key}", **headers}
            try:
                answer = httpx.post(f"{proxy}{path}", json=ASK, headers=given, timeout=30)
                answers.append(f"{answer.headers} {answer.text if answer.status_code != 200 else ''}")
            except httpx.RemoteProtocolError as error:
                answers.append(str(error))

        ask()
        ask(key=OTHER)
        ask(path=f"/v1/{KEY}?key={KEY}")
        for fault in ("before-headers", "mid-thinking", "status-500", "garbage"):
            ask(**{"x-mock": f"fault={fault}"})
        ask(**{"x-lynxstop-risk": KEY})
        ask(**{"content-encoding": "gzip"})
        eventually(lambda: len([line for line in lines if line["event"] == "request"]) == 9)
        process.terminate()
        process.wait(60)

    # Each line was JSON, or it would not have been read.
    assert all(isinstance(line, dict) for line in lines)
    for secret in SECRETS:
        assert secret not in str(lines)
    for secret in (OTHER, THEIRS, "zebra"):
        assert secret not in str(answers)


def test_a_server_that_echoes_the_key_in_its_error_is_the_servers_own(written: io.StringIO) -> None:
    async def echoing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await receive()
            body = orjson.dumps({"error": {"message": dict(scope["headers"])[b"authorization"].decode()}})
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": body})

    with serving(echoing) as url, watching(url) as proxy:
        answer = httpx.post(
            proxy.url + CHAT, json=ASK, headers={"authorization": f"Bearer {KEY}"}, timeout=30
        )
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
    assert answer.status_code in (401, 502)
    assert KEY not in written.getvalue()
