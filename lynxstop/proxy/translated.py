"""The base of routes of other protocols: answer by a chat, and translate its events back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import orjson

from lynxstop.errors import RequestError, UpstreamError
from lynxstop.proxy.chat import ChatHandler
from lynxstop.proxy.chat_request import ChatRequest, Frames
from lynxstop.proxy.choices import Document
from lynxstop.proxy.exchange import Incoming
from lynxstop.proxy.race import Race, seeded
from lynxstop.proxy.sample import AnswerSource, Sample
from lynxstop.proxy.tool_calls import pieces
from lynxstop.remote.chat import Chat
from lynxstop.remote.client_request import ClientRequest
from lynxstop.remote.dialects.base import CHAT, Dialect
from lynxstop.remote.events import ClientEvent, as_json
from lynxstop.remote.http.connection import RefusedError
from lynxstop.remote.http.encoded import encoded
from lynxstop.remote.http.headers import find, for_call
from lynxstop.remote.thinking_splitter import DEFAULT, TextPiece, ThinkingSplitter

Json = dict[str, Any]

_ABSENT = (404, 405)
"""Statuses of a server without such a route."""


class Writer(Protocol):
    """Writes one answer in a protocol's own events, and as a whole."""

    def begin(self, event: Json, prompt_tokens: int) -> Iterator[Json]:
        """Write what precedes all text, by the first event of the chat."""

    def text(self, text: str, *, thinking: bool) -> Iterator[Json]:
        """Write a piece of the thinking or of the answer."""

    def calls(self, delta: Json) -> Iterator[Json]:
        """Write what an event has of tool calls."""

    def end(self, choice: Json, usage: Json, report: Json | None) -> Iterator[Json]:
        """Write what follows all text."""

    def whole(self) -> Json:
        """Return the answer, once it has ended."""


class TranslatedHandler(ChatHandler):
    """Answers the requests of a route by chats.

    A request that is watched is translated, wherever the server has the route itself. One that is not goes to
    the server's route untouched; when there is none it is translated too, if it can be.
    """

    path = CHAT
    _offered: bool | None = None

    @abstractmethod
    def translate(self, body: Json) -> Json | str:
        """Return the chat request that means the same; a cause, when there is none."""

    @abstractmethod
    def writer(self, request: ChatRequest) -> Writer:
        """Return what writes one answer."""

    @abstractmethod
    def refusal(self, error: RefusedError) -> Json:
        """Return a refusal of the server in the shape of this route."""

    def _headers(self, incoming: Incoming) -> Sequence[tuple[bytes, bytes]]:
        """Show a key as chats expect it."""
        key = find(incoming.headers, b"x-api-key")
        if key is None or find(incoming.headers, b"authorization") is not None:
            return incoming.headers
        return [*incoming.headers, (b"authorization", b"Bearer " + key)]

    async def _untouched(self, request: ChatRequest) -> str | None:
        """Return why a request cannot be watched."""
        if request.service.stream_config is None:
            return "no_bundle"
        chat = self.translate(request.body)
        if isinstance(chat, str):
            return chat
        with suppress(UpstreamError):
            # It only says how thinking is shown: a server that fails here may still answer chats.
            await self._has_route(request)
        return await self._why_untouched(request, chat)

    async def _leave(self, request: ChatRequest, cause: str) -> None:
        """Pass a request on to the server's own route, or translate it where there is none."""
        if request.options.race == 1 and await self._has_route(request):
            await self._pass(request.incoming, request.reply, request.content, cause)
            return
        chat = self.translate(request.body)
        if isinstance(chat, str):
            raise RequestError(
                f"The server has no {self.route}, and this request cannot be translated: {chat}.",
                code="not_translated",
                hint="Leave that out, or use /v1/chat/completions.",
            )
        self._note(request.incoming, cause)
        chat = _spoken(chat, request.service.dialect)
        samples = [
            Sample(request.server, ClientRequest(seeded(chat, place), None))
            for place in range(request.options.race)
        ]
        await self._answer(request, samples[0] if len(samples) == 1 else Race(samples))

    async def _refused(self, request: ChatRequest, error: RefusedError) -> None:
        """Forward the client's own request, or answer with the refusal of the server."""
        if await self._has_route(request):
            await super()._refused(request, error)
        else:
            await self._tell(request, error)

    async def _tell(self, request: ChatRequest, error: RefusedError) -> None:
        """Answer a request that the server has refused, in the shape of this route."""
        content = orjson.dumps(self.refusal(error))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        if (wait := find(error.headers, b"retry-after")) is not None:
            headers.append((b"retry-after", wait))
        await request.reply.start(error.status_code, headers)
        await request.reply.end(content)

    async def _chat(self, request: ChatRequest, body: Mapping[str, Any]) -> Chat:
        """Make the watched chat of a request."""
        chat = self.translate(dict(body))
        assert not isinstance(chat, str)
        return await super()._chat(request, _spoken(chat, request.service.dialect))

    def _frames(self, request: ChatRequest, source: AnswerSource) -> Frames:
        """Make what writes a stream in the protocol's own events."""
        return _Writing(self.writer(request), request, source)

    def _document(self, request: ChatRequest, source: AnswerSource) -> Document:
        """Make what writes the answer of one choice, for a client that asked for no stream."""
        return _Writing(self.writer(request), request, source)

    async def _has_route(self, request: ChatRequest) -> bool:
        """Whether the server has this route; found out once, by an empty request."""
        if self._offered is None:
            headers = [*for_call(request.incoming.headers), (b"content-length", b"0")]
            async with self._upstream.stream("POST", self.route, headers, b"") as response:
                await response.read()
                if response.status in (401, 403, 429) or response.status >= 502:
                    return True
                self._offered = response.status not in _ABSENT
        return self._offered


def _spoken(chat: Json, dialect: Dialect | None) -> Json:
    """Return a chat with the budget of its thinking under the server's own key, if it has one."""
    budget, key = chat.get("thinking_token_budget"), dialect and dialect.facts.thinking_budget
    kept = {name: value for name, value in chat.items() if name != "thinking_token_budget"}
    return {**kept, key: budget} if key and budget is not None else kept


class _Writing(Frames):
    """Feeds a chat's events to a writer."""

    def __init__(self, writer: Writer, request: ChatRequest, source: AnswerSource) -> None:
        self._writer = writer
        self._source = source
        self._stream_config = request.service.stream_config
        self._splitter = ThinkingSplitter()
        self._begun = False
        self._choice: Json = {"finish_reason": None}
        self._report: Json | None = None
        self._said = False

    def write(self, events: Sequence[ClientEvent]) -> bytes:
        """Write events that go out together."""
        return b"".join([_frame(written) for event in events for written in self._read(as_json(event))])

    def end(self) -> bytes:
        """Write what ends the stream."""
        return b"".join(map(_frame, self._end()))

    def add(self, event: Json) -> None:
        """Take in the next event of an answer in one piece; see `Document`."""
        self.write([event])

    def whole(self) -> Json:
        """Return the answer in one piece, once all events are in."""
        self.end()
        return self._writer.whole()

    def _read(self, event: Json) -> Iterator[Json]:
        if not self._begun:
            self._begun, config = True, self._stream_config
            opened = getattr(self._source, "opened", config is not None and config.opened)
            delimiters = DEFAULT if config is None else config.watch.delimiters
            self._splitter = ThinkingSplitter(delimiters, opened=opened)
            opening = getattr(self._source, "opening", None)
            yield from self._writer.begin(event, (opening and opening.prompt_tokens) or 0)
        self._report = event.get("lynxstop", self._report)
        for choice in (event.get("choices") or ())[:1]:
            said = choice.get("delta") or {}
            yield from self._texts(self._splitter.read(said))
            if isinstance(refusal := said.get("refusal"), str) and refusal:
                yield from self._texts([*self._splitter.end(), TextPiece(False, refusal)])
            if any(pieces(said)):
                yield from self._texts(self._splitter.end())
                yield from self._writer.calls(said)
            if choice.get("finish_reason"):
                self._choice = choice

    def _end(self) -> Iterator[Json]:
        if not self._begun:
            raise UpstreamError("The server broke off the answer.", code="upstream_died")
        yield from self._texts(self._splitter.end())
        yield from self._writer.end(self._choice, self._source.usage or {}, self._report)

    def _texts(self, parts: Sequence[TextPiece]) -> Iterator[Json]:
        for part in parts:
            yield from self._writer.text(part.text, thinking=part.thinking)


def _frame(event: Json) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + encoded(event) + b"\n\n"
