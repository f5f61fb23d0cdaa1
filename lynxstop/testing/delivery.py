"""How the mock server delivers an answer: its pace, frames and faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import cycle

import orjson

from lynxstop.proxy.exchange import Reply, Send
from lynxstop.testing.settings import MockSettings
from lynxstop.testing.wire import Json, Run, Wire

Tokens = AsyncIterator[tuple[Run, bool]]
"""After every token, the run that it belongs to, and whether that run has been said."""

_ENDS = {"lf": (b"\n",), "crlf": (b"\r\n",), "cr": (b"\r",), "mixed": (b"\n", b"\r\n")}


class InjectedFault(Exception):
    """A fault ends the connection here."""


@dataclass
class Record:
    """What /stats shows of a request.

    Attributes
    ----------
    path : str
    body : dict
        As received; empty if it is large.
    tokens : int
        Produced so far, for all choices.
    outcome : str
        "active", "completed", "aborted" (by the client), "failed" (by a fault) or "refused".
    """

    path: str
    body: Json = field(default_factory=dict)
    tokens: int = 0
    outcome: str = "active"


async def produce(runs: list[Run], record: Record, settings: MockSettings) -> Tokens:
    """Produce tokens in turn.

    Raises
    ------
    InjectedFault
        In the middle of thinking or answer, where that fault is asked for.
    """
    await asyncio.sleep(settings.first_delay)
    open_runs = [run for run in runs if run.tokens]
    while open_runs:
        for run in list(open_runs):
            await asyncio.sleep(settings.delay)
            run.made += 1
            record.tokens += 1
            done = run.made == len(run.tokens)
            if done:
                open_runs.remove(run)
            if settings.fault in ("mid-thinking", "mid-answer", "hang") and _here(run, settings.fault):
                if settings.fault == "hang":
                    await asyncio.Event().wait()
                raise InjectedFault
            yield run, done


async def send_whole(
    reply: Reply, wire: Wire, runs: list[Run], tokens: Tokens, settings: MockSettings
) -> None:
    """Send a document once all has been said.

    Raises
    ------
    InjectedFault
        After the headers or within the document, where that fault is asked for.
    """
    async for _ in tokens:
        pass
    body = orjson.dumps(wire.whole(runs))
    if settings.fault in ("after-headers", "before-done"):
        length = str(len(body)).encode()
        await reply.start(200, [(b"content-type", b"application/json"), (b"content-length", length)])
        await reply.send(body[: 0 if settings.fault == "after-headers" else len(body) // 2])
        raise InjectedFault
    await send_json(reply, body)


class _Events:
    """Writes events, framed and split as the settings say.

    Attributes
    ----------
    count : int
        Events so far.
    """

    def __init__(self, reply: Reply, settings: MockSettings) -> None:
        self.count = 0
        self._reply, self._settings = reply, settings
        self._ends = cycle(_ENDS[settings.framing])

    async def write(self, event: bytes) -> None:
        """Write one event."""
        self.count += 1
        frame = b"data: " + event + next(self._ends) + next(self._ends)
        if self._settings.pings and self.count % self._settings.pings == 0:
            frame += b": ping" + next(self._ends) + next(self._ends)
        for piece in _pieces(frame, self._settings.split):
            await self._reply.send(piece)
            await asyncio.sleep(0)


async def send_stream(
    reply: Reply,
    wire: Wire,
    runs: list[Run],
    tokens: Tokens,
    settings: MockSettings,
    *,
    usage: bool,
) -> None:
    """Send server-sent events while tokens are produced.

    Raises
    ------
    InjectedFault
        After the headers or before the end, where that fault is asked for.
    """
    charset = b"iso-8859-1" if settings.fault == "charset" else b"utf-8"
    kind = (b"content-type", b"text/event-stream; charset=" + charset)
    await reply.start(200, [kind, (b"cache-control", b"no-cache")])
    if settings.fault == "after-headers":
        raise InjectedFault
    events = _Events(reply, settings)
    write = events.write
    if wire.chat:
        for run in runs:
            await write(orjson.dumps(wire.first(run)))
    sent = dict.fromkeys(range(len(runs)), 0)
    async for run, done in tokens:
        if run.made - sent[run.index] < settings.tokens_per_event and not done:
            continue
        for chunk in wire.part(run, run.tokens[sent[run.index] : run.made]):
            await write(_spoiled(chunk, settings, events.count))
            if settings.fault == "error-event" and events.count == 5:
                await write(
                    orjson.dumps({"error": {"message": "A fault.", "type": "mock_fault", "code": 500}})
                )
                await reply.end()
                return
        sent[run.index] = run.made
        if done:
            await write(orjson.dumps(wire.last(run)))
    for event in [wire.last(run) for run in runs if not run.tokens]:
        await write(orjson.dumps(event))
    if usage:
        await write(orjson.dumps(wire.chunk([], usage=wire.usage(runs))))
    if settings.fault == "before-done":
        raise InjectedFault
    await write(b"[DONE]")
    await reply.end()


async def send_json(reply: Reply, content: Json | bytes) -> None:
    """Send one JSON document."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    length = str(len(body)).encode()
    await reply.start(200, [(b"content-type", b"application/json"), (b"content-length", length)])
    await reply.end(body)


def hang_up(send: Send) -> None:
    """Close the connection; ASGI has no message for that, so this uses the transport of uvicorn."""
    send.__self__.transport.close()  # type: ignore[attr-defined]


def _here(run: Run, fault: str) -> bool:
    """Whether the middle of the thinking, or of the answer, has been reached."""
    part = "answer" if fault == "mid-answer" else "thinking"
    places = [i for i, token in enumerate(run.tokens) if token.part == part]
    return bool(places) and run.made - 1 == places[len(places) // 2]


def _spoiled(chunk: Json, settings: MockSettings, count: int) -> bytes:
    """Write a chunk as JSON, with a fault where one is asked for."""
    if settings.fault == "huge-line" and count == 5:
        chunk["padding"] = "x" * 2**20
    event = orjson.dumps(chunk)
    if settings.fault == "garbage" and count == 5:
        return event[: len(event) // 2]
    if settings.fault == "charset":
        return event.replace(b'"created":', b'"caf\xe9":0,"created":')
    return event


def _pieces(frame: bytes, size: int) -> Iterator[bytes]:
    size = size or len(frame)
    return (frame[i : i + size] for i in range(0, len(frame), size))
