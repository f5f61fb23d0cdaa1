"""The request for a continuation: tried again before its first token, and never silent for long.

Until the first event arrives nothing of it has gone to the client, so trying again is free of risk: the
prompt is the same. Meanwhile empty bursts say that the answer goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from lynxstop.errors import UpstreamError
from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import Call
from lynxstop.remote.events import Reading
from lynxstop.remote.http.connection import RefusedError
from lynxstop.remote.http.headers import find
from lynxstop.remote.server import Server
from lynxstop.remote.server_error import StreamedError

PING_SECONDS = 2.0
"""Longest wait for the first event without a sign of life."""

LONGEST_WAIT = 30.0
"""Seconds; a server that asks for more is not tried again: the client waits in the middle of an answer."""

_FIRST_WAIT = 0.25
_PASSING = frozenset({429, 500, 502, 503, 504, 529})
_LOST = frozenset({"upstream_died", "upstream_unreachable"})

Event = TypeVar("Event")


@dataclass(slots=True)
class SecondRequest:
    """One continuation.

    Parameters
    ----------
    server : Server
    make : callable
        Makes the request; may ask the server for what it needs.
    read : callable
        Reads an event, as a dialect does.
    tries : int
        How often the server is asked at most.

    Attributes
    ----------
    call : Call or None
        The request, once it has been made.
    tried : int
        How often the server has been asked.
    """

    server: Server
    make: Callable[[], Awaitable[Call]]
    read: Callable[[Json], Delta]
    tries: int = 3
    call: Call | None = field(default=None, init=False)
    tried: int = field(default=0, init=False)

    async def bursts(self) -> AsyncGenerator[list[tuple[Json, Delta]]]:
        """Give the events, those together that came together; an empty burst says that the answer goes on.

        Raises
        ------
        UpstreamError
            When the last try fails, or the server dies after its first event.
        """
        async with aclosing(self._tried()) as found, aclosing(with_signs_of_life(found)) as signs:
            async for burst in signs:
                yield burst

    async def _tried(self) -> AsyncGenerator[list[tuple[Json, Delta]]]:
        while True:
            self.tried += 1
            begun = False
            try:
                async with aclosing(self._once()) as found:
                    async for burst in found:
                        begun = begun or bool(burst)
                        yield burst
                return
            except UpstreamError as error:
                wait = None if begun or self.tried >= self.tries else wait_before(error, self.tried)
                if wait is None:
                    raise
            await asyncio.sleep(wait)

    async def _once(self) -> AsyncGenerator[list[tuple[Json, Delta]]]:
        if self.call is None:
            self.call = await self.make()
        reading = Reading(self.read)
        async with self.server.events(self.call.path, self.call.body) as arriving:
            async for arrived in arriving:
                found: list[tuple[Json, Delta]] = []
                try:
                    found.extend(reading.burst(arrived))
                except UpstreamError:
                    # What came before an error in the same burst is not lost.
                    if found:
                        yield found
                    raise
                if found or not arrived:
                    yield found
            reading.end()


def wait_before(error: UpstreamError, tried: int) -> float | None:
    """Return the seconds to wait before the next try; None when another would fail too, or come too late.

    `Retry-After` counts, in seconds or as a date; without it the wait doubles with each try.
    """
    if isinstance(error, RefusedError):
        passes = error.status in _PASSING
    else:
        passes = error.status_code in _PASSING if isinstance(error, StreamedError) else error.code in _LOST
    if not passes:
        return None
    asked = _retry_after(find(error.headers, b"retry-after")) if isinstance(error, RefusedError) else None
    if asked is None:
        return float(_FIRST_WAIT * 2 ** (tried - 1) * random.uniform(0.75, 1.25))
    return asked if asked <= LONGEST_WAIT else None


def _retry_after(value: bytes | None) -> float | None:
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError, TypeError):
        then = parsedate_to_datetime(text)
        return max(0.0, (then - datetime.now(UTC)).total_seconds())
    return None


async def with_signs_of_life(
    source: AsyncGenerator[list[Event]], seconds: float | None = None
) -> AsyncGenerator[list[Event]]:
    """Give what a source gives, and an empty list whenever its first events do not come for a while.

    Parameters
    ----------
    source : async generator of lists
        Closed by the caller.
    seconds : float, optional
        `PING_SECONDS` by default.
    """
    while True:
        coming = asyncio.ensure_future(anext(source, None))
        try:
            while not (await asyncio.wait((coming,), timeout=seconds or PING_SECONDS))[0]:
                yield []
            burst = coming.result()
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        if burst is None:
            return
        yield burst
        if burst:
            break
    async for burst in source:
        yield burst
