"""A server that dies or pauses after every single byte, of the first stream and of its continuation."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from tests.support.canned import (
    ANSWER,
    CHAT,
    COMPLETIONS,
    EXIT_BEFORE,
    EXIT_BEHIND,
    THOUGHT,
    Got,
    ask,
    canned,
    left_over,
    numbered,
    settled,
)
from tests.support.servers import Proxied
from tests.support.watching import watching

AT_ONCE = 16
STOPPED, UNSTOPPED = -math.inf, math.inf
CHUNKED, CLOSE = ("chunked", "aiohttp"), ("close", "httpx")
USAGE = {"include_usage": True}


def cases(*kinds: tuple[float, str]) -> list[Any]:
    """Both framings with either transport; what takes long and is much the same is slow."""
    found = []
    for framing in (CHUNKED, CLOSE):
        for threshold, path in kinds:
            long = path == CHAT and (framing is CLOSE or threshold == STOPPED)
            name = f"{framing[0]}-{'stopped' if threshold < 0 else 'unstopped'}{path.replace('/', '-')}"
            found.append(
                pytest.param(framing, threshold, path, id=name, marks=[pytest.mark.slow] if long else [])
            )
    return found


def wanted(number: int, threshold: float) -> tuple[str, str]:
    """Thinking and answer of a request."""
    thought, answer = ("".join(numbered(texts, f"{number:05}")) for texts in (THOUGHT, ANSWER))
    if threshold == UNSTOPPED:
        return thought, answer
    return thought.partition("Wait")[0] + EXIT_BEFORE, EXIT_BEHIND + answer


async def sweep(proxy: Proxied, path: str, kind: str, size: int) -> list[Got]:
    """Ask once for every place, many at a time; the request's number is the place."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(place: int) -> Got:
        async with turn:
            return await ask(proxy.url, place, f"{path} {kind} {place}", stream_options=USAGE)

    return list(await asyncio.gather(*map(one, range(size + 1))))


def swept(
    framing: tuple[str, str], threshold: float, path: str, kind: str
) -> tuple[list[Got], Got, bytes, Proxied]:
    """Sweep, and see that nothing is left; return all answers, the one without a fault, and the body."""
    with (
        canned(framing[0]) as (url, server),
        watching(url, threshold, sections={"upstream": {"transport": framing[1]}}) as proxy,
    ):
        plain = asyncio.run(ask(proxy.url, stream_options=USAGE))
        before = left_over()
        found = asyncio.run(sweep(proxy, path, kind, len(server.bodies[path])))
        settled(proxy, server, before)
        return found, plain, server.bodies[path], proxy


@pytest.mark.parametrize(
    ("framing", "threshold", "path"), cases((UNSTOPPED, CHAT), (STOPPED, COMPLETIONS), (STOPPED, "/tokenize"))
)
def test_a_pause_after_any_byte_changes_nothing(
    framing: tuple[str, str], threshold: float, path: str
) -> None:
    found, plain, _, _ = swept(framing, threshold, path, "split")
    for number, got in enumerate(found):
        assert (got.said(), got.said("content")) == wanted(number, threshold), number
        assert (got.finishes, got.error, got.done, got.ended) == (["stop"], None, True, True), number
        assert {event["id"] for event in got.events} == {f"c{number:05}"}
        assert got.events[-1]["usage"] == plain.events[-1]["usage"], number


@pytest.mark.parametrize(
    ("framing", "threshold", "path"),
    cases((UNSTOPPED, CHAT), (STOPPED, CHAT), (STOPPED, COMPLETIONS), (STOPPED, "/tokenize")),
)
def test_a_death_after_any_byte_is_reported_or_changes_nothing(
    framing: tuple[str, str], threshold: float, path: str
) -> None:
    found, plain, body, proxy = swept(framing, threshold, path, "kill")
    for number, got in enumerate(found):
        thought, answer = wanted(number, threshold)
        if got.done:
            assert (got.said(), got.said("content")) == (thought, answer), number
            assert (got.finishes, got.error, got.ended) == (["stop"], None, True), number
        else:
            # What has been sent is forwarded, then the error, in whichever form is still possible.
            assert got.error in ("upstream_died", "upstream_nonsense"), number
            assert got.status in (200, 502)
            assert not got.finishes
            begun = [text.startswith(got.said()) for text in (thought, wanted(number, UNSTOPPED)[0])]
            assert any(begun), number
            assert answer.startswith(got.said("content")), number
    complete = [got.done for got in found]
    # Nothing is taken for an answer before all of it is there.
    cut_short = path == CHAT and threshold == STOPPED
    ends = b"]" if path == "/tokenize" else b"Wait" if cut_short else b'"stop"'
    assert not any(complete[: body.index(ends)])
    assert complete[-1]
    assert found[-1].events[-1]["usage"] == plain.events[-1]["usage"]
    if cut_short:
        assert all(complete[body.index(b'"delta":{"content":"0') :])
    failed = complete.count(False)
    assert proxy.count("lynxstop_requests_total", route=CHAT, outcome="upstream_error") == failed
