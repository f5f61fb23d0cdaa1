"""The streams of a server, read by its dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson

from lynxstop.errors import UpstreamError
from lynxstop.remote.dialects.base import Call, Delta, Dialect, Json, Opening
from lynxstop.remote.server import Server

Deltas = AsyncIterator[tuple[Json, Delta]]
"""Events, as they came and as they read."""

DONE = b"[DONE]"


def parse(data: bytes) -> Json:
    """Parse the data of an event.

    Raises
    ------
    UpstreamError
        When it is no JSON object.
    """
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        event = None
    if not isinstance(event, dict):
        raise UpstreamError("The server streamed an event that is no JSON object.", code="upstream_nonsense")
    return event


@asynccontextmanager
async def chat_stream(server: Server, dialect: Dialect, opening: Opening) -> AsyncIterator[Deltas]:
    """Stream a chat; the opening learns the prompt's tokens when the server tells them."""

    async def deltas(events: AsyncIterator[bytes]) -> Deltas:
        async for event, delta in whole(events, dialect.read):
            if delta.prompt_ids:
                opening.prompt_ids = delta.prompt_ids
            if delta.usage:
                opening.counted = delta.usage.get("prompt_tokens")
            yield event, delta

    async with server.events(opening.path, dialect.watched(opening.body)) as events:
        yield deltas(events)


@asynccontextmanager
async def continued_stream(server: Server, dialect: Dialect, call: Call) -> AsyncIterator[Deltas]:
    """Stream what continues a cut answer."""

    async with server.events(call.path, call.body) as events:
        yield whole(events, dialect.read_continuation)


async def whole(events: AsyncIterator[bytes], read: Callable[[Json], Delta]) -> Deltas:
    """Events of a stream, which must come to its end.

    Raises
    ------
    UpstreamError
        When it does not, or when an event is an error or no JSON object.
    """
    ended = False
    async for data in events:
        if data == DONE:
            ended = True
            continue
        event = parse(data)
        if "error" in event:
            raise UpstreamError("The server broke off with an error.", code="upstream_failed")
        delta = read(event)
        ended = ended or bool(delta.finish)
        yield event, delta
    if not ended:
        raise UpstreamError("The server broke off the answer.", code="upstream_died")
