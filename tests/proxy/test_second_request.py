"""The request for a continuation: tried again before its first token, and with signs of life meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import orjson
import pytest

from lynxstop.errors import UpstreamError
from lynxstop.remote import second_request
from lynxstop.remote.dialects.base import hurried
from lynxstop.remote.dialects.vllm import Vllm
from lynxstop.remote.http.connection import RefusedError
from lynxstop.remote.second_request import LONGEST_WAIT, wait_before, with_signs_of_life
from lynxstop.remote.server_error import StreamedError
from lynxstop.testing.server import MockServer
from lynxstop.testing.settings import MockSettings
from tests.support.altering import Altering, breaking
from tests.support.canned import CHAT, COMPLETIONS
from tests.support.servers import eventually, serving
from tests.support.watching import EXIT, watching

BODY = {"model": "toy", "messages": [{"role": "user", "content": "What is 7 + 5 * 2 - 3?"}]}


def ask(url: str, *, stream: bool = True) -> httpx.Response:
    return httpx.post(url + CHAT, json={**BODY, "stream": stream}, timeout=60)


def altering(**how: Any) -> Altering:
    return Altering(MockServer(MockSettings(opened=True)), path=COMPLETIONS, **how)


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("stream", [True, False])
def test_a_continuation_that_is_refused_is_asked_for_again(status: int, stream: bool) -> None:
    server = altering(refuses=2, status=status)
    with serving(server) as url, watching(url) as proxy:
        answer = ask(proxy.url, stream=stream)
        eventually(lambda: proxy.count("lynxstop_continuation_retries_total") == 2)
        assert proxy.count("lynxstop_continuations_total", outcome="done") == 1
    assert answer.status_code == 200
    assert b'"exit":"score"' in answer.content
    assert b"error" not in answer.content
    asked = [body for path, body in server.bodies if path == COMPLETIONS]
    assert asked[0] == asked[1] == asked[2]


def test_it_is_asked_for_three_times_at_most_and_the_servers_words_are_passed_on() -> None:
    server = altering(refuses=99)
    with serving(server) as url, watching(url) as proxy:
        streamed, whole = ask(proxy.url), ask(proxy.url, stream=False)
        assert server.seen[COMPLETIONS] == 6
        eventually(lambda: proxy.count("lynxstop_continuations_total", outcome="broken") == 2)
        counted = proxy.count("lynxstop_passthrough_total", cause="continuation_failed")
    last = orjson.loads(streamed.content.strip().split(b"\n\n")[-1].removeprefix(b"data: "))
    assert last["error"] == {"message": "Too many.", "type": "rate", "param": None, "code": "slow_down"}
    # Nothing of it has gone out, so the client gets what it asked for, without the exit.
    assert whole.status_code == 200
    assert whole.json()["choices"][0]["finish_reason"] == "stop"
    assert "lynxstop" not in whole.json()
    assert counted == 1
    # The client has the thinking, and no half of an answer.
    assert EXIT.strip().encode() not in streamed.content
    assert b"boxed" not in streamed.content


def test_the_tries_are_configured() -> None:
    server = altering(refuses=1)
    sections = {"upstream": {"continuation_tries": 1}}
    with serving(server) as url, watching(url, sections=sections) as proxy:
        assert b"error" in ask(proxy.url).content
        assert server.seen[COMPLETIONS] == 1


def test_an_error_as_the_first_event_is_tried_again_and_a_later_one_is_not() -> None:
    frame = b'data: {"error": {"message": "Busy.", "code": 503}}\n\n'
    for at, tries in ((1, 3), (2, 1)):
        server = altering(events=breaking(frame, at))
        with serving(server) as url, watching(url) as proxy:
            answer = ask(proxy.url)
        assert server.seen[COMPLETIONS] == tries
        assert b'"Busy."' in answer.content
        assert (b"boxed" in answer.content) is (at == 2)


def refused(status: int, **headers: bytes) -> RefusedError:
    return RefusedError(status, [(name.encode(), value) for name, value in headers.items()], b"")


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (refused(429), 0.1, 0.5),
        (refused(503, **{"retry-after": b"7"}), 7, 7),
        (refused(529, **{"retry-after": b"0.5"}), 0.5, 0.5),
        (refused(429, **{"retry-after": b"soon"}), 0.1, 0.5),
        (StreamedError({"message": "Busy.", "code": 503}), 0.1, 0.5),
        (UpstreamError("It died.", code="upstream_died"), 0.1, 0.5),
    ],
)
def test_how_long_a_try_waits(error: UpstreamError, least: float, most: float) -> None:
    wait = wait_before(error, 1)
    assert wait is not None
    assert least <= wait <= most


def test_a_try_waits_until_a_date() -> None:
    then = datetime.now(UTC) + timedelta(seconds=20)
    wait = wait_before(refused(429, **{"retry-after": format_datetime(then).encode()}), 1)
    assert wait is not None
    assert 0 < wait <= 20


@pytest.mark.parametrize(
    "error",
    [
        refused(400),
        refused(200),
        refused(429, **{"retry-after": str(LONGEST_WAIT + 1).encode()}),
        StreamedError({"message": "Too long.", "code": 400}),
        UpstreamError("It shows no ids."),
        UpstreamError("It is silent.", code="upstream_timeout", status=504),
    ],
)
def test_what_would_fail_again_is_not_tried(error: UpstreamError) -> None:
    assert wait_before(error, 1) is None


def test_a_wait_for_the_first_event_has_signs_of_life() -> None:
    async def late() -> AsyncGenerator[list[int]]:
        await asyncio.sleep(0.2)
        yield [1]
        await asyncio.sleep(0.2)
        yield [2]

    async def run() -> list[list[int]]:
        return [burst async for burst in with_signs_of_life(late(), 0.05)]

    found = asyncio.run(run())
    assert found[0] == []
    assert [burst for burst in found if burst] == [[1], [2]]
    assert found.index([1]) == len(found) - 2, "none between the events that follow"


def test_a_client_sees_them_in_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_request, "PING_SECONDS", 0.05)
    server = altering(refuses=1, retry_after=b"0.5")
    with serving(server) as url, watching(url) as proxy:
        answer = ask(proxy.url)
    before, pings, after = answer.content.partition(b": ping\n\n: ping\n\n")
    assert pings
    assert b"reasoning" in before
    assert b"boxed" in after


@pytest.mark.parametrize(("own", "sent"), [(None, -1), (5, 4)])
def test_a_continuation_goes_before_new_requests_where_the_server_schedules_so(
    own: int | None, sent: int
) -> None:
    body = {"model": "toy"} if own is None else {"model": "toy", "priority": own}
    assert hurried(Vllm(), body) == {}
    assert hurried(Vllm(prioritises=True), body) == {"priority": sent}
    more = {} if own is None else {"priority": own}
    server = altering()
    with serving(server) as url, watching(url, dialect=Vllm(prioritises=True)) as proxy:
        httpx.post(proxy.url + CHAT, json={**BODY, **more}, timeout=60)
    assert server.bodies[-1][0] == COMPLETIONS
    assert server.bodies[-1][1]["priority"] == sent


class Prioritising:
    """A server that refuses priorities, or takes them."""

    def __init__(self, *, takes: bool) -> None:
        self.takes = takes

    async def call(self, path: str, body: Any = None) -> Any:
        assert (path, body["priority"]) == (COMPLETIONS, -1)
        if not self.takes:
            raise refused(400)
        return {"choices": []}


@pytest.mark.parametrize("takes", [True, False])
def test_whether_the_server_schedules_by_priority_is_found_out(takes: bool) -> None:
    server: Any = Prioritising(takes=takes)
    assert asyncio.run(Vllm().prioritised(server, "toy")).prioritises is takes
