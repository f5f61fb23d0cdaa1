"""/v1/messages behaves as the server's own route: thinking blocks, budgets, effort, what SDKs send back."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from lynxstop.proxy.messages import MessagesHandler, to_chat
from lynxstop.remote.dialects.llamacpp import LlamaCpp
from lynxstop.remote.dialects.openai import OpenAI
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.altering import Altering
from tests.support.canned import CHAT
from tests.support.servers import serving
from tests.support.watching import watching

ASK: dict[str, Any] = {
    "model": "toy",
    "max_tokens": 4000,
    "messages": [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}],
}
BUDGET = {"thinking": {"type": "enabled", "budget_tokens": 2048}}


class WithRoute:
    """The mock server, with a route for messages that refuses everything."""

    def __init__(self) -> None:
        self.mock = MockServer(MockSettings(opened=True))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] == "/v1/messages":
            await send({"type": "http.response.start", "status": 422, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
        else:
            await self.mock(scope, receive, send)


@pytest.mark.parametrize(("server", "kinds"), [(WithRoute, ["thinking", "text"]), (MockServer, ["text"])])
@pytest.mark.parametrize("stream", [False, True])
def test_thinking_is_shown_as_the_server_shows_it(server: Any, kinds: list[str], stream: bool) -> None:
    with serving(server()) as url, watching(url) as proxy:
        answer = httpx.post(proxy.url + "/v1/messages", json={**ASK, "stream": stream}, timeout=30)
    if stream:
        found = [kind for kind in ("thinking", "text") if f'"content_block":{{"type":"{kind}"' in answer.text]
    else:
        found = [block["type"] for block in answer.json()["content"]]
    assert found == kinds


@pytest.mark.parametrize(
    ("dialect", "key"),
    [(None, "thinking_token_budget"), (LlamaCpp, "thinking_budget_tokens"), (OpenAI, None)],
)
def test_a_budget_is_the_servers_own(dialect: Any, key: str | None) -> None:
    server = Altering(MockServer(MockSettings(opened=True)))
    options = {} if dialect is None else {"dialect": dialect()}
    with serving(server) as url, watching(url, float("inf"), **options) as proxy:
        httpx.post(proxy.url + "/v1/messages", json={**ASK, **BUDGET}, timeout=30)
    asked = next(body for path, body in server.bodies if path == CHAT)
    assert {name for name in asked if "budget" in name} == ({key} if key else set())
    assert key is None or asked[key] == 2048


@pytest.mark.parametrize("budget", [1023, 4000, 5000, "2048", True])
def test_a_budget_that_the_protocol_forbids_is_for_the_server_to_refuse(budget: Any) -> None:
    assert to_chat({**ASK, "thinking": {"type": "enabled", "budget_tokens": budget}}) == "malformed"


def test_effort_is_passed_on_and_chooses_a_level() -> None:
    body = {**ASK, "output_config": {"effort": "low", "format": None}}
    chat = to_chat(body)
    assert isinstance(chat, dict)
    assert chat["reasoning_effort"] == "low"
    assert MessagesHandler._effort(object(), body)["reasoning_effort"] == "low"  # type: ignore[arg-type]
    assert to_chat({**ASK, "output_config": {"format": {"type": "json_schema"}}}) == "structured_output"


def test_keys_with_null_are_absent() -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "14", "citations": None, "cache_control": None},
    ]
    turns = [*ASK["messages"], {"role": "assistant", "content": blocks}, *ASK["messages"]]
    chat = to_chat({**ASK, "messages": turns, "thinking": None, "output_config": None})
    assert isinstance(chat, dict)
    assert chat["messages"][1] == {"role": "assistant", "content": "14"}
    blocks[1]["citations"] = [{"cited_text": "x"}]
    assert to_chat({**ASK, "messages": turns}) == "blocks"
