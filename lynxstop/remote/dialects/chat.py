"""What most servers of OpenAI's chat protocol have in common; dialects override where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import TOP, Dialect, Opening, ServerFacts
from lynxstop.remote.dialects.reading import read_chat
from lynxstop.remote.server import Server


class ChatDialect(Dialect):
    """Requests log-probabilities and reads tokens as they come."""

    facts = ServerFacts()
    exact = False
    prioritises = False
    in_place = False
    neutral: Mapping[str, Any] = MappingProxyType({})

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(type(self))

    async def end_thinking(self, server: Server, id: str) -> bool:
        """No route for that is known."""
        return False

    async def routes(self, server: Server, model: str) -> Sequence[Dialect]:
        """The kind of server has one method."""
        return (self,)

    async def has_plugin(self, server: Server) -> bool:
        """There is none."""
        return False

    async def prioritised(self, server: Server, model: str) -> Dialect:
        """No priority is known."""
        return self

    def watched(self, body: Mapping[str, Any]) -> Json:
        """Ask for log-probabilities and usage."""
        options = dict(body.get("stream_options") or {}) | {"include_usage": True}
        asked = {"stream": True, "logprobs": True, "top_logprobs": TOP}
        return {**body, **asked, "stream_options": options}

    async def opening(self, server: Server, body: Mapping[str, Any]) -> Opening:
        """Nothing is needed before the first token."""
        return Opening(body)

    def read(self, event: Json) -> Delta:
        """Read one event of a chat stream."""
        return read_chat(event)

    async def prompt_end(self, server: Server, opening: Opening) -> str | None:
        """The server does not show it."""
        return None

    async def tokenize(self, server: Server, model: str, text: str) -> tuple[int, ...]:
        """The server does not show it."""
        return ()

    def clean(self, event: Json, body: Mapping[str, Any]) -> None:
        """Only log-probabilities were requested."""
