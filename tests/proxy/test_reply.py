"""What a reply knows: whether an error can still be sent as an event."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lynxstop.errors import UpstreamError
from lynxstop.proxy import failures
from lynxstop.proxy.exchange import Reply

EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]


async def sent(headers: list[tuple[bytes, bytes]], pieces: list[bytes]) -> tuple[bool, list[Any]]:
    found: list[Any] = []

    async def send(message: Any) -> None:
        found.append(message)

    reply = Reply(send, "/v1/chat/completions")
    await reply.start(200, headers)
    for piece in pieces:
        await reply.send(piece)
    whole = reply.at_event
    await failures.answer(reply, UpstreamError("It died.", code="upstream_died"))
    return whole, found


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
def test_the_end_of_an_event_is_seen_in_any_pieces(end: bytes, size: int) -> None:
    frame = b"data: {}" + end
    for cut in range(len(frame) + 1):
        raw = frame + frame[:cut]
        pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
        whole, found = asyncio.run(sent(EVENTS, pieces))
        assert whole is (cut in (0, len(frame))), cut
        assert (b"upstream_died" in found[-1]["body"]) is whole
        assert found[-1]["more_body"] is not whole


@pytest.mark.parametrize(
    "headers",
    [[], [(b"content-type", b"application/json")], [*EVENTS, (b"content-encoding", b"gzip")]],
)
def test_only_a_stream_of_plain_events_can_hold_one_more(headers: list[tuple[bytes, bytes]]) -> None:
    whole, found = asyncio.run(sent(headers, [b"data: {}\n\n"]))
    assert not whole
    assert found[-1] == {"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True}


def test_a_stream_that_has_only_its_head_can() -> None:
    whole, found = asyncio.run(sent(EVENTS, []))
    assert whole
    assert b"upstream_died" in found[-1]["body"]
