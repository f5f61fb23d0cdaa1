"""How the mock server says it: at what pace, in which frames, and with which fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from typing import Protocol

import orjson

from lynxstop.proxy.exchange import Reply, Send
from lynxstop.testing.settings import Knobs
from lynxstop.testing.wire import Json, Run, Wire

Tokens = AsyncIterator[tuple[Run, bool]]
"""After every token, the run that it belongs to, and whether that run has been said."""

_ENDS = {"lf": (b"\n",), "crlf": (b"\r\n",), "cr": (b"\r",), "mixed": (b"\n", b"\r\n")}


class Cut(Exception):
    """A fault ends the connection here."""


class Counting(Protocol):
    """What counts the tokens that were produced."""

    tokens: int


async def produce(runs: list[Run], record: Counting, knobs: Knobs) -> Tokens:
    """Produce tokens in turn.

    Raises
    ------
    Cut
        In the middle of thinking or answer, where that fault is asked for.
    """
    await asyncio.sleep(knobs.first_delay)
    open_runs = [run for run in runs if run.tokens]
    while open_runs:
        for run in list(open_runs):
            await asyncio.sleep(knobs.delay)
            run.made += 1
            record.tokens += 1
            done = run.made == len(run.tokens)
            if done:
                open_runs.remove(run)
            if knobs.fault in ("mid-thinking", "mid-answer", "hang") and _here(run, knobs.fault):
                if knobs.fault == "hang":
                    await asyncio.Event().wait()
                raise Cut
            yield run, done


async def send_whole(reply: Reply, wire: Wire, runs: list[Run], tokens: Tokens, knobs: Knobs) -> None:
    """Send a document once all has been said.

    Raises
    ------
    Cut
        Behind the headers or within the document, where that fault is asked for.
    """
    async for _ in tokens:
        pass
    body = orjson.dumps(wire.whole(runs))
    if knobs.fault in ("after-headers", "before-done"):
        length = str(len(body)).encode()
        await reply.start(200, [(b"content-type", b"application/json"), (b"content-length", length)])
        await reply.send(body[: 0 if knobs.fault == "after-headers" else len(body) // 2])
        raise Cut
    await send_json(reply, body)


class _Events:
    """Writes events, framed and split as the knobs say.

    Attributes
    ----------
    count : int
        Events so far.
    """

    def __init__(self, reply: Reply, knobs: Knobs) -> None:
        self.count = 0
        self._reply, self._knobs = reply, knobs
        self._ends = cycle(_ENDS[knobs.framing])

    async def write(self, event: bytes) -> None:
        """Write one event."""
        self.count += 1
        frame = b"data: " + event + next(self._ends) + next(self._ends)
        if self._knobs.pings and self.count % self._knobs.pings == 0:
            frame += b": ping" + next(self._ends) + next(self._ends)
        for piece in _pieces(frame, self._knobs.split):
            await self._reply.send(piece)
            await asyncio.sleep(0)


async def send_stream(
    reply: Reply,
    wire: Wire,
    runs: list[Run],
    tokens: Tokens,
    knobs: Knobs,
    *,
    usage: bool,
) -> None:
    """Send server-sent events while tokens are produced.

    Raises
    ------
    Cut
        Behind the headers or before the end, where that fault is asked for.
    """
    charset = b"iso-8859-1" if knobs.fault == "charset" else b"utf-8"
    kind = (b"content-type", b"text/event-stream; charset=" + charset)
    await reply.start(200, [kind, (b"cache-control", b"no-cache")])
    if knobs.fault == "after-headers":
        raise Cut
    events = _Events(reply, knobs)
    write = events.write
    if wire.chat:
        for run in runs:
            await write(orjson.dumps(wire.first(run)))
    sent = dict.fromkeys(range(len(runs)), 0)
    async for run, done in tokens:
        if run.made - sent[run.index] < knobs.tokens_per_event and not done:
            continue
        for chunk in wire.part(run, run.tokens[sent[run.index] : run.made]):
            await write(_spoiled(chunk, knobs, events.count))
            if knobs.fault == "error-event" and events.count == 5:
                await write(
                    orjson.dumps({"error": {"message": "A fault.", "type": "mock_fault", "code": 500}})
                )
                await reply.end()
                return
        sent[run.index] = run.made
        if done:
            await write(orjson.dumps(wire.last(run)))
    if usage:
        await write(orjson.dumps(wire.chunk([], usage=wire.usage(runs))))
    if knobs.fault == "before-done":
        raise Cut
    await write(b"[DONE]")
    await reply.end()


async def send_json(reply: Reply, content: Json | bytes) -> None:
    """Send one JSON document."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    length = str(len(body)).encode()
    await reply.start(200, [(b"content-type", b"application/json"), (b"content-length", length)])
    await reply.end(body)


def hang_up(send: Send) -> None:
    """Close the connection; ASGI has no word for that, so that this reaches into uvicorn."""
    send.__self__.transport.close()  # type: ignore[attr-defined]


def _here(run: Run, fault: str) -> bool:
    """Whether the middle of the thinking, or of the answer, has been reached."""
    part = "answer" if fault == "mid-answer" else "thinking"
    places = [i for i, token in enumerate(run.tokens) if token.part == part]
    return bool(places) and run.made - 1 == places[len(places) // 2]


def _spoiled(chunk: Json, knobs: Knobs, count: int) -> bytes:
    """Write a chunk as JSON, with a fault where one is asked for."""
    if knobs.fault == "huge-line" and count == 5:
        chunk["padding"] = "x" * 2**20
    event = orjson.dumps(chunk)
    if knobs.fault == "garbage" and count == 5:
        return event[: len(event) // 2]
    if knobs.fault == "charset":
        return event.replace(b'"created":', b'"caf\xe9":0,"created":')
    return event


def _pieces(frame: bytes, size: int) -> Iterator[bytes]:
    size = size or len(frame)
    return (frame[i : i + size] for i in range(0, len(frame), size))
