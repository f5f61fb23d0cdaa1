"""Where the routes of other protocols meet trouble: errors in their shape, keys, and what a server offers."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import openai
import orjson
import pytest

from lynxstop.errors import RequestError, UpstreamError
from lynxstop.proxy.failures import error_body, error_event
from lynxstop.proxy.messages import QUIET
from tests.support.servers import serving
from tests.support.watching import watching

DIED = UpstreamError("It died.", code="upstream_died")
MESSAGE = {
    "model": "toy",
    "max_tokens": 4000,
    "messages": [{"role": "user", "content": "What is 7 + 5 * 2?"}],
}
RESPONSE: dict[str, Any] = {"model": "toy", "input": "What is 7 + 5 * 2 - 3?"}


def test_an_error_event_has_the_shape_of_its_route() -> None:
    def event(route: str) -> tuple[str | None, Any]:
        *names, data = error_event(DIED, route).decode().strip().split("\n")
        return (names[0] if names else None), json.loads(data.removeprefix("data: "))

    shared = {"message": "It died.", "type": "upstream_error", "param": None, "code": "upstream_died"}
    assert event("/v1/chat/completions") == (None, {"error": shared})
    name, flat = event("/v1/responses")
    assert name == "event: error"
    assert (flat["type"], flat["code"], flat["message"]) == ("error", "upstream_died", "It died.")
    assert flat["sequence_number"] == 0
    assert event("/v1/messages") == (
        "event: error",
        {"type": "error", "error": {"type": "api_error", "message": "It died."}},
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (413, "request_too_large"),
     (429, "rate_limit_error"), (503, "overloaded_error"), (418, "invalid_request_error")],
)  # fmt: skip
def test_anthropics_errors_are_named_by_their_status(status: int, kind: str) -> None:
    found = json.loads(error_body(RequestError("No.", status=status), "/v1/messages"))
    assert found == {"type": "error", "error": {"type": kind, "message": "No."}}


@pytest.mark.parametrize(
    ("fault", "said"), [("mid-thinking", "server"), ("error-event", "A fault."), ("garbage", "server")]
)
def test_a_response_that_breaks_off_is_raised_by_the_client(mock: Any, fault: str, said: str) -> None:
    with (
        watching(mock[0], math.inf) as proxy,
        openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.APIError) as caught,
    ):
        list(client.responses.create(**RESPONSE, stream=True, extra_headers={"x-mock": f"fault={fault}"}))
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"x-api-key": "one"}, [b"Bearer one"]),
        ({"x-api-key": "one", "authorization": "Bearer two"}, [b"Bearer two"]),
        ({"authorization": "Bearer two"}, [b"Bearer two"]),
        ({}, []),
    ],
)
def test_a_key_reaches_the_server_once(mock: Any, given: dict[str, str], shown: list[bytes]) -> None:
    seen: list[list[bytes]] = []

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/v1/chat/completions":
            seen.append([value for name, value in scope["headers"] if name == b"authorization"])
        await mock[1](scope, receive, send)

    with serving(listening) as url, watching(url) as proxy:
        assert (
            httpx.post(f"{proxy.url}/v1/messages", json=MESSAGE, headers=given, timeout=30).status_code == 200
        )
    assert seen == [shown]


@pytest.mark.parametrize("refusal", [401, 403, 429, 503])
def test_a_refusal_says_nothing_of_whether_the_server_has_a_route(mock: Any, refusal: int) -> None:
    statuses = [refusal, refusal, 404]

    async def moody(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/messages":
            await mock[1](scope, receive, send)
            return
        await receive()
        body = orjson.dumps({"type": "error", "error": {"type": "theirs", "message": "Theirs."}})
        await send({"type": "http.response.start", "status": statuses.pop(0), "headers": []})
        await send({"type": "http.response.body", "body": body})

    off = {**MESSAGE, "lynxstop": {"risk": "off"}}
    with serving(moody) as url, watching(url) as proxy:
        # Asked whether it has the route, the server refuses, and then answers the request itself.
        first = httpx.post(f"{proxy.url}/v1/messages", json=off, timeout=30)
        second = httpx.post(f"{proxy.url}/v1/messages", json=off, timeout=30)
        third = httpx.post(f"{proxy.url}/v1/messages", json=off, timeout=30)
    assert (first.status_code, first.json()["error"]["message"]) == (refusal, "Theirs.")
    assert second.status_code == third.status_code == 200
    assert statuses == []


def test_a_client_that_waits_through_hidden_thinking_hears_something(mock: Any) -> None:
    with watching(mock[0], math.inf) as proxy:
        shown, hidden = (
            httpx.post(f"{proxy.url}/v1/messages", json={**MESSAGE, "stream": True, **more}, timeout=30).text
            for more in ({"thinking": {"type": "adaptive"}}, {})
        )
    thoughts = shown.count('"thinking_delta"')
    assert thoughts > QUIET
    assert shown.count("event: ping") == 1
    assert hidden.count("event: ping") == 1 + thoughts // QUIET
    assert "thinking" not in hidden.replace('"thinking_tokens"', "")
