"""Whether answers can be continued is tried out on real servers, and never believed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from lynxstop.errors import UpstreamError
from lynxstop.remote.continuation_check import CheckedContinuation, UncontinuedError, check_continuation
from lynxstop.remote.dialects.openai import OpenAI
from lynxstop.remote.dialects.table import choose
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.http.config import ConnectionConfig
from lynxstop.remote.http.connection import Connection
from lynxstop.remote.http.upstream import Upstream
from lynxstop.testing import server as mocked
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.servers import serving

T = TypeVar("T")


def asking(url: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    async def run() -> T:
        upstream = Upstream(ConnectionConfig(url=url))
        try:
            return await work(Connection(upstream))
        finally:
            await upstream.aclose()

    return asyncio.run(run())


def checked(url: str, name: str = "openai") -> CheckedContinuation:
    async def work(server: Connection) -> CheckedContinuation:
        return await check_continuation(server, await choose(name, server), "toy")

    return asking(url, work)


@pytest.mark.parametrize(
    ("settings", "route", "lead", "opened"),
    [
        ({}, "tokens", "{open}", False),
        ({"opened": True}, "tokens", "", False),
        ({"reasoning": "raw"}, "tokens", "", False),
        ({"reasoning": "raw", "opened": True}, "tokens", "", True),
        ({"completions": False}, "resume", "{open}", False),
        ({"tokens_per_event": 4, "reasoning": "reasoning_content"}, "tokens", "{open}", False),
    ],
)
def test_the_first_way_that_goes_on_as_the_answer_did_is_taken(
    settings: dict[str, Any], route: str, lead: str, opened: bool
) -> None:
    with serving(MockServer(MockSettings(**settings))) as url:
        found = checked(url)
    assert isinstance(found.dialect, OpenAI)
    assert (found.dialect.route, found.dialect.lead, found.opened) == (route, lead, opened)
    assert found.verified
    assert found.exit_tokens == 3


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"completions": False, "resume": False}, "no_continuation"), ({"logprobs": False}, "no_logprobs")],
)
def test_what_cannot_be_continued_is_known_before(settings: dict[str, Any], code: str) -> None:
    with serving(MockServer(MockSettings(**settings))) as url, pytest.raises(UncontinuedError) as caught:
        checked(url)
    assert caught.value.code == code


@pytest.mark.parametrize("kept", [(), ("prompt_token_ids",), ("token_ids",)])
def test_a_server_that_does_not_show_token_ids_is_not_continued_from_them(kept: tuple[str, ...]) -> None:
    """An older vLLM, or a gateway that passes on only what it knows."""

    class Dropping(Vllm):
        def read(self, event: Any) -> Any:
            for part in (event, *(event.get("choices") or ())):
                for name in {"prompt_token_ids", "token_ids"}.difference(kept):
                    part.pop(name, None)
            return super().read(event)

    with serving(MockServer(MockSettings())) as url, pytest.raises(UncontinuedError, match="ids") as caught:
        asking(url, lambda server: check_continuation(server, Dropping(), "toy"))
    assert caught.value.code == "no_logprobs"


def test_a_template_that_drops_closed_thinking_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a template as many models have: of an assistant's message only what follows the thinking is shown
    render: Any = vars(mocked)["render"]

    def dropping(messages: list[dict[str, Any]], **how: Any) -> str:
        shown = [{**each, "content": str(each.get("content")).rpartition("</think>")[2]} for each in messages]
        return render(shown, **how)

    monkeypatch.setattr(mocked, "render", dropping)
    with (
        serving(MockServer(MockSettings(completions=False))) as url,
        pytest.raises(UncontinuedError) as caught,
    ):
        checked(url)
    assert "removes thinking" in str(caught.value)


def test_a_server_that_begins_anew_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    complete: Any = vars(mocked)["complete"]
    monkeypatch.setattr(mocked, "complete", lambda text, *more: complete(text.partition("<think>")[0], *more))
    with serving(MockServer(MockSettings(opened=True))) as url, pytest.raises(UncontinuedError) as caught:
        checked(url)
    assert "continues differently" in str(caught.value)


def test_token_ids_need_no_trial() -> None:
    server = MockServer(MockSettings(opened=True))
    with serving(server) as url:
        found = checked(url, "vllm")
    assert isinstance(found.dialect, Vllm)
    assert not found.verified
    assert [record.path for record in server.records] == ["/v1/chat/completions"]


def test_the_tokens_that_open_a_block_in_the_prompt_are_known() -> None:
    server = MockServer(MockSettings(reasoning="raw", opened=True))
    with serving(server) as url:
        found = checked(url, "vllm")
    assert found.opened
    assert found.opened_by
    assert server.vocabulary.decode(found.opened_by).strip() == "<think>"
    assert "<think>" not in server.vocabulary.decode(found.opened_by[1:])


@pytest.mark.parametrize("trouble", ["before-headers", "status-429"])
def test_a_passing_trouble_is_no_verdict(monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    # given a server that answers once, and then has a bad moment
    server = MockServer(MockSettings(opened=True))
    plan = server._plan

    def once(*arguments: Any) -> Any:
        server.settings = MockSettings(opened=True, fault=trouble)  # type: ignore[arg-type]
        return plan(*arguments)

    monkeypatch.setattr(server, "_plan", once)
    with serving(server) as url, pytest.raises(UpstreamError) as caught:
        checked(url)
    assert not isinstance(caught.value, UncontinuedError)


def test_a_template_that_adds_something_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a server that goes on as it did, but reads more than was said
    render: Any = vars(mocked)["render"]

    def adding(messages: list[dict[str, Any]], **how: Any) -> str:
        greeting = {"role": "user", "content": "Hello"}
        return render([greeting, *messages] if how["resume"] else messages, **how)

    monkeypatch.setattr(mocked, "render", adding)
    with (
        serving(MockServer(MockSettings(completions=False))) as url,
        pytest.raises(UncontinuedError) as caught,
    ):
        checked(url)
    assert "It reads" in str(caught.value)
