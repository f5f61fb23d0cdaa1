"""Write the answers of watched and raced requests: as a stream, or whole; each route has its own form."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from lynxstop.proxy.assemble import Assembly
from lynxstop.proxy.chat_request import ChatRequest, Frames
from lynxstop.proxy.choices import Document, JoinedChoices
from lynxstop.proxy.request_options import KEY
from lynxstop.proxy.sample import AnswerSource
from lynxstop.proxy.service import Services
from lynxstop.remote.events import ClientEvent, as_json
from lynxstop.remote.http.encoded import encoded
from lynxstop.remote.http.headers import Headers, for_answer
from lynxstop.remote.report import as_headers

Json = dict[str, Any]

_PING = b": ping\n\n"

_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Answers:
    """Answers requests from what their sources give.

    Parameters
    ----------
    services : Services
        Has the level that is announced.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def _frames(self, request: ChatRequest, source: AnswerSource) -> Frames:
        """Make what writes a stream as the client reads it."""
        return Frames()

    def _document(self, request: ChatRequest, source: AnswerSource) -> Document:
        """Make what writes the answer of one choice, for a client that asked for no stream."""
        dialect = request.service.dialect
        return Assembly(None if dialect is None else dialect.facts.empty_content)

    async def _answer(self, request: ChatRequest, source: AnswerSource) -> None:
        """Let a source answer a request."""
        reply = request.reply
        try:
            async with aclosing(source.bursts()) as bursts:
                if request.body.get("stream"):
                    await self._stream(request, bursts, self._frames(request, source))
                    return
                parts = [self._document(request, source) for _ in range(request.choices)]
                document = parts[0] if len(parts) == 1 else JoinedChoices(parts)
                async for burst in bursts:
                    for event in burst:
                        document.add(as_json(event))
        finally:
            for name in ("prompt_tokens", "completion_tokens"):
                if source.usage is not None and source.usage.get(name) is not None:
                    request.incoming.notes[name] = int(source.usage[name])
        answer = document.whole()
        content = encoded(answer)
        headers = [*self._passed_on(request), (b"content-type", b"application/json"), length_of(content)]
        headers += as_headers(answer.get(KEY) or {})
        await reply.start(200, headers)
        await reply.end(content)

    def _announced(self, request: ChatRequest) -> Headers:
        """Return the headers with what is known before the answer."""
        level = self._services.level(request.options)
        if level is None:
            return []
        certificate = level.certificate if request.options.certified else None
        mode = str(request.options.mode)
        return as_headers({"risk": f"{level.risk:g}", "mode": mode, "certificate": certificate})

    async def _stream(
        self, request: ChatRequest, bursts: AsyncGenerator[list[ClientEvent]], frames: Frames
    ) -> None:
        reply, last, longest = request.reply, 0.0, 0.0
        async for burst in bursts:
            if not reply.started:
                await self._begin(request)
            if burst:
                now = time.monotonic()
                longest, last = max(longest, now - (last or now)), now
            await reply.send(frames.write(burst) if burst else _PING)
        if not reply.started:
            await self._begin(request)
        request.incoming.notes["silence_seconds"] = round(longest, 6)
        await reply.end(frames.end())

    async def _begin(self, request: ChatRequest) -> None:
        named = (b"x-lynxstop-request", request.incoming.id.encode())
        headers = [*self._passed_on(request), *_STREAM, *self._announced(request), named]
        await request.reply.start(200, headers)

    def _passed_on(self, request: ChatRequest) -> Headers:
        """Return the server's headers that hold whatever the body is."""
        return for_answer(request.server.answered or ())


def length_of(content: bytes) -> tuple[bytes, bytes]:
    """Return the header with the length of a body."""
    return b"content-length", str(len(content)).encode()
