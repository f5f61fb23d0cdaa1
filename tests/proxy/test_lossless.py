"""Nothing is lost between a server and its client: errors, codings, other forms of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import orjson
import pytest

from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.altering import Altering, breaking
from tests.support.canned import CHAT, COMPLETIONS
from tests.support.servers import Proxied, serving
from tests.support.watching import watching

BODY = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}]}


@contextmanager
def altered(**how: Any) -> Iterator[tuple[Proxied, Altering]]:
    server = Altering(MockServer(MockSettings(opened=True)), **how)
    with serving(server) as url, watching(url) as proxy:
        yield proxy, server


def ask(proxy: Proxied, *, stream: bool, path: str = CHAT, **more: Any) -> httpx.Response:
    return httpx.post(proxy.url + path, json={**BODY, "stream": stream, **more}, timeout=60)


def events_of(answer: httpx.Response) -> list[Any]:
    return [orjson.loads(part[6:]) for part in answer.content.split(b"\n\n") if part.startswith(b"data: {")]


DIALECTS = [
    (
        b'data: {"error":{"message":"Too long: 2048.","type":"BadRequestError","param":null,"code":400}}\n\n',
        {"message": "Too long: 2048.", "type": "BadRequestError", "param": None, "code": 400},
        400,
    ),
    (
        b'data: {"error":"rate limit: 20s","error_type":"overloaded"}\n\n',
        {"message": "rate limit: 20s", "type": "overloaded"},
        502,
    ),
    (
        b'event: error\ndata: {"message":"overloaded","code":529}\n\n',
        {"message": "overloaded", "code": 529},
        529,
    ),
    (b"event: error\ndata: out of memory\n\n", {"message": "out of memory"}, 502),
    (
        b'data: {"object":"error","message":"boom","type":"InternalServerError","code":500}\n\n',
        {"message": "boom", "type": "InternalServerError", "code": 500},
        500,
    ),
    (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Busy"}}\n\n',
        {"message": "Busy", "type": "overloaded_error"},
        502,
    ),
    (b'data: {"detail":"No such adapter."}\n\n', {"message": "No such adapter."}, 502),
]


@pytest.mark.parametrize(("frame", "said", "status"), DIALECTS)
def test_an_error_in_a_stream_is_passed_on_as_the_server_said_it(
    frame: bytes, said: dict[str, Any], status: int
) -> None:
    with altered(events=breaking(frame)) as (proxy, _):
        streamed = ask(proxy, stream=True)
        whole = ask(proxy, stream=False)
        anthropic = ask(proxy, stream=True, path="/v1/messages", max_tokens=900)
        assert proxy.count("lynxstop_upstream_errors_total", code="upstream_failed") == 3
    *before, last = events_of(streamed)
    assert len(before) == 9, "what came before the error is not lost"
    assert said.items() <= last["error"].items()
    assert b"[DONE]" not in streamed.content
    assert whole.status_code == status
    assert said.items() <= whole.json()["error"].items()
    shown = orjson.loads(anthropic.content.split(b"data: ")[-1])
    assert shown["error"]["message"] == said["message"]


def test_an_error_as_the_first_event_has_its_own_status() -> None:
    with altered(events=breaking(DIALECTS[0][0], 1)) as (proxy, _):
        answer = ask(proxy, stream=True)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "Too long: 2048."


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_that_is_packed_all_the_same_is_unpacked(path: str, stream: bool) -> None:
    with altered() as (proxy, _):
        plain = ask(proxy, stream=stream)
    with altered(path=path, packed=True) as (proxy, _):
        answer = ask(proxy, stream=stream)
    assert answer.status_code == 200
    assert "content-encoding" not in answer.headers
    assert _texts(answer, stream) == _texts(plain, stream)


def _texts(answer: httpx.Response, stream: bool) -> tuple[str, str]:
    choices = (
        [event["choices"][0] for event in events_of(answer) if event["choices"]]
        if stream
        else [answer.json()["choices"][0]]
    )
    said = [choice.get("delta") or choice.get("message") or {} for choice in choices]
    return tuple("".join(one.get(name) or "" for one in said) for name in ("reasoning", "content"))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [b"text/plain", b"application/json", b"application/octet-stream", None])
@pytest.mark.parametrize("stream", [True, False])
def test_events_under_another_type_are_events(kind: bytes | None, stream: bool) -> None:
    with altered(head={b"content-type": kind}) as (proxy, server):
        answer = ask(proxy, stream=stream)
        assert server.seen[CHAT] == 1
    assert answer.headers["content-type"].startswith("text/event-stream" if stream else "application/json")
    assert b"prompt_token_ids" not in answer.content
    assert b'"token_ids"' not in answer.content
    assert b"top_logprobs" not in answer.content
    assert b'"exit":"score"' in answer.content


def test_lines_of_json_under_another_type_are_events() -> None:
    def lines(number: int, event: bytes) -> bytes:
        return b"" if b"[DONE]" in event else event.removeprefix(b"data: ").replace(b"\n\n", b"\n")

    with altered(events=lines, head={b"content-type": b"application/json"}) as (proxy, _):
        answer = ask(proxy, stream=True)
    assert events_of(answer)[-1]["lynxstop"]["exit"] == "score"


@pytest.mark.parametrize("stream", [True, False])
def test_a_server_that_ignores_the_stream_is_asked_again_as_the_client_asked(stream: bool) -> None:
    with altered(whole=True) as (proxy, server):
        answer = ask(proxy, stream=stream)
        assert proxy.count("lynxstop_passthrough_total", cause="refused_200") == 1
        *_, (_, asked) = server.bodies
    assert asked == {**BODY, "stream": stream}
    assert answer.json()["choices"][0]["logprobs"] is None
    assert b"token_ids" not in answer.content


@pytest.mark.parametrize(
    "written", [b"\xef\xbb\xbf" + orjson.dumps(BODY), orjson.dumps(BODY).decode().encode("utf-16")]
)
def test_a_body_with_a_mark_or_in_utf_16_is_watched(written: bytes) -> None:
    with altered() as (proxy, _):
        answer = httpx.post(proxy.url + CHAT, content=written, timeout=60)
    assert answer.json()["lynxstop"]["exit"] == "score"


@pytest.mark.parametrize("written", [b'{"model": ', b"[]", b"", b"\xff\xfe{"])
def test_the_server_judges_what_is_no_json(written: bytes) -> None:
    with serving(Echo()) as url, watching(url) as proxy:
        answer = httpx.post(proxy.url + CHAT, content=written, timeout=60)
        assert proxy.count("lynxstop_passthrough_total", cause="malformed") == 1
    assert answer.status_code == 422
    assert answer.content == written


class Echo:
    """Refuses everything with what was sent."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            message = await receive()
            await send({"type": "http.response.start", "status": 422, "headers": []})
            await send({"type": "http.response.body", "body": message.get("body", b"")})


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_log_probabilities_spell_the_whole_answer(path: str) -> None:
    asked: dict[str, Any] = {"logprobs": True} if path == CHAT else {"logprobs": 0, "max_tokens": 900}
    if path == COMPLETIONS:
        asked["prompt"] = "<|user|>\nWhat is 7 + 5 * 2 - 3?\n<|assistant|>\n<think>"
    with altered() as (proxy, _):
        answer = ask(proxy, stream=False, path=path, **asked).json()
    [choice] = answer["choices"]
    assert answer["lynxstop"]["stopped"]
    if path == COMPLETIONS:
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
        return
    entries = choice["logprobs"]["content"]
    message = choice["message"]
    spelled = "".join(entry["token"] for entry in entries)
    assert spelled == message["reasoning"] + message["content"]
    assert all(entry["logprob"] <= 0 for entry in entries)


def test_the_exit_is_in_the_details_of_usage() -> None:
    with altered() as (proxy, _):
        whole = ask(proxy, stream=False).json()
        stream = ask(proxy, stream=True, stream_options={"include_usage": True})
        response = httpx.post(
            proxy.url + "/v1/responses", json={"model": "toy", "input": "7 + 5?"}, timeout=60
        )
        off = ask(proxy, stream=False, lynxstop={"risk": "off"}).json()
        shadow = ask(proxy, stream=False, lynxstop={"mode": "shadow"}).json()
    assert whole["usage"]["completion_tokens_details"]["lynxstop_exit"] == "score"
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    [used] = [event["usage"] for event in events_of(stream) if event.get("usage")]
    assert used == whole["usage"]
    assert response.json()["usage"]["output_tokens_details"]["lynxstop_exit"] == "score"
    assert "lynxstop_exit" not in off["usage"]["completion_tokens_details"]
    # What was only decided saved nothing.
    assert shadow["lynxstop"]["exit"] == "score"
    assert "lynxstop_exit" not in shadow["usage"]["completion_tokens_details"]


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
@pytest.mark.parametrize(("size", "status"), [(20_000, 200), (200_000, 502)])
def test_long_header_lines_are_passed_on_and_too_long_ones_named(
    transport: str, size: int, status: int
) -> None:
    class Long:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                headers = [(b"x-long", b"y" * size)]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": b"{}"})

    sections = {"upstream": {"transport": transport}}
    with serving(Long()) as url, watching(url, sections=sections) as proxy:
        answer = httpx.get(proxy.url + "/v1/x", timeout=30)
    assert answer.status_code == status
    if status == 502:
        assert answer.json()["error"]["code"] == "upstream_headers"
    else:
        assert len(answer.headers["x-long"]) == size


def test_stop_tokens_that_an_exit_holds_pass_through() -> None:
    with altered() as (proxy, server):
        ask(proxy, stream=False)
        exit_id = server.app.vocabulary.id("boxed")
        ask(proxy, stream=False, stop_token_ids=[exit_id])
        assert proxy.count("lynxstop_passthrough_total", cause="stop") == 1


def test_refusals_are_counted_by_code_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "lynxstop.proxy")
    with altered(refuses=9) as (proxy, _):
        ask(proxy, stream=False, lynxstop={"risk": 0.3})
        assert proxy.count("lynxstop_refused_total", code="risk_not_certified") == 1
        httpx.post(proxy.url + CHAT, json=BODY, headers={"x-request-id": "mine-1"}, timeout=30)
        bad = httpx.post(proxy.url + CHAT, json=BODY, headers={"x-request-id": "a b"}, timeout=30)
    assert bad.json()["error"]["message"] == "Too many."
    refused, mine, other = [record.fields for record in caplog.records if record.message == "request"]  # type: ignore[attr-defined]
    assert refused["code"] == "risk_not_certified"
    assert (mine["client_id"], other["client_id"]) == ("mine-1", None)
    assert "Too many." not in str(mine)
