"""One sample of an answer: a stream of events, watched or not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lynxstop.remote.client_request import ClientRequest
from lynxstop.remote.delta import reasoning_field
from lynxstop.remote.dialects.base import CHAT
from lynxstop.remote.dialects.reading import read_chat, read_completion
from lynxstop.remote.events import ClientEvent, Reading
from lynxstop.remote.server import Server

Json = dict[str, Any]


class AnswerSource(Protocol):
    """What answers a request: a watched chat, an unwatched one, or a race of several.

    Attributes
    ----------
    usage : dict or None
        What the client is billed; known at the end.
    """

    @property
    def usage(self) -> Json | None:
        """What the client is billed; known at the end."""

    @property
    def upstream_tokens(self) -> int:
        """Tokens that came from the server so far; events, where it does not show them."""

    def bursts(self) -> AsyncGenerator[list[ClientEvent]]:
        """Give the events for the client, those together that came together."""


@dataclass(slots=True)
class Sample:
    """A stream of the server as it is, except for usage that only we requested.

    Parameters
    ----------
    server : Server
    client_request : ClientRequest
    path : str
        Where the request goes.
    """

    server: Server
    client_request: ClientRequest
    path: str = CHAT
    usage: Json | None = None
    upstream_tokens: int = 0
    _last: Json | None = field(default=None)

    async def bursts(self) -> AsyncGenerator[list[ClientEvent]]:
        """Give the events for the client, those together that came together.

        Raises
        ------
        UpstreamError
            When the server cannot be reached, answers with an error, or dies.
        """
        reading = Reading(read_chat if self.path == CHAT else read_completion)
        async with self.server.events(self.path, _streamed(self.client_request.body)) as bursts:
            async for burst in bursts:
                if not burst:
                    yield []
                shown: list[ClientEvent] = []
                for event, _ in reading.burst(burst):
                    self.usage = event.get("usage") or self.usage
                    self.upstream_tokens += _says(event)
                    if self.client_request.usage or event.get("choices"):
                        shown.append(event)
                if shown:
                    yield shown
            reading.end()
        if self.usage is not None:
            self.upstream_tokens = int(self.usage.get("completion_tokens") or self.upstream_tokens)


def _streamed(body: Mapping[str, Any]) -> Json:
    options = {**(body.get("stream_options") or {}), "include_usage": True}
    return {**body, "stream": True, "stream_options": options}


def _says(event: Json) -> bool:
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or choice
        texts = choice.get("text") or delta.get("content") or reasoning_field(delta)
        if texts or delta.get("tool_calls"):
            return True
    return False
