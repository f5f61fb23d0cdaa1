"""The streams of a server, read by its dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lynxstop.remote.dialects.base import Call, Dialect, Opening
from lynxstop.remote.events import Deltas, Reading
from lynxstop.remote.server import Server


@asynccontextmanager
async def chat_stream(server: Server, dialect: Dialect, opening: Opening) -> AsyncIterator[Deltas]:
    """Stream a chat; `opening` gets the tokens of the prompt when the server shows them."""
    async with server.events(opening.path, dialect.watched(opening.body)) as bursts:
        yield Reading(dialect.read, opening, whole=False).all(bursts)


@asynccontextmanager
async def continued_stream(server: Server, dialect: Dialect, call: Call) -> AsyncIterator[Deltas]:
    """Stream the continuation of a truncated answer."""
    async with server.events(call.path, call.body) as bursts:
        yield Reading(dialect.read_continuation).all(bursts)
