"""A chat request that is being answered, and the form of its stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lynxstop.monitor.arms import Arm
from lynxstop.proxy.examination import Service
from lynxstop.proxy.exchange import Incoming, Reply
from lynxstop.proxy.race import seeded
from lynxstop.proxy.request_options import ExitOptions
from lynxstop.remote.events import ClientEvent
from lynxstop.remote.http.connection import Connection
from lynxstop.remote.http.encoded import encoded

Json = dict[str, Any]


class Frames:
    """Writes the events of one answer as server-sent events."""

    def write(self, events: Sequence[ClientEvent]) -> bytes:
        """Write events that go out together."""
        return b"".join(
            [b"data: %b\n\n" % (event if isinstance(event, bytes) else encoded(event)) for event in events]
        )

    def end(self) -> bytes:
        """Write what ends the stream."""
        return b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request that is being answered.

    Parameters
    ----------
    incoming : Incoming
    reply : Reply
    server : Connection
    body : dict
        Without the key `lynxstop`, but with the parameters for a plugin in the server.
    content : bytes
        The same as bytes, to be forwarded.
    options : ExitOptions
    service : Service
    known : dict
        What a route finds out before the request is watched.
    arm : Arm
        How the request was drawn to be treated.
    """

    incoming: Incoming
    reply: Reply
    server: Connection
    body: Json
    content: bytes
    options: ExitOptions
    service: Service
    known: dict[str, Any] = field(default_factory=dict)
    arm: Arm = Arm.SERVE

    @property
    def choices(self) -> int:
        """Number of choices that are watched, each by a request of its own."""
        return int(self.known.get("choices", 1))

    def samples(self) -> list[Mapping[str, Any]]:
        """Return the requests that are sent for it: one for each choice, or each sample of a race."""
        body = {name: value for name, value in self.body.items() if name != "n" or self.choices == 1}
        return [seeded(body, place) for place in range(max(self.choices, self.options.race))]
