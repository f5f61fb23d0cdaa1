"""The mock server with answers altered as a test says: other codings, other types, errors in the stream."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Message = MutableMapping[str, Any]


@dataclass
class Altering:
    """An ASGI app in front of another.

    Parameters
    ----------
    app : ASGI app
    path : str
        Answers at this path are altered.
    events : callable, optional
        Gets an event's number from 1 and its bytes; returns what goes out in its place, None to end there.
    head : dict
        Headers of the answer that are replaced; None removes one.
    packed : bool
        Compress the answer with gzip, piece by piece.
    whole : bool
        Ignore `stream`.
    refuses : int
        Requests that are refused first, each with `status`, `refusal` and `retry_after`.

    Attributes
    ----------
    seen : Counter
        Requests by path.
    bodies : list of (str, dict)
        Paths and bodies, as they arrived.
    """

    app: Any
    path: str = "/v1/chat/completions"
    events: Callable[[int, bytes], bytes | None] | None = None
    head: dict[bytes, bytes | None] = field(default_factory=dict)
    packed: bool = False
    whole: bool = False
    refuses: int = 0
    status: int = 429
    refusal: bytes = b'{"error": {"message": "Too many.", "type": "rate", "code": "slow_down"}}'
    retry_after: bytes | None = b"0"
    seen: Counter[str] = field(default_factory=Counter)
    bodies: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.seen[scope["path"]] += 1
        content, more = b"", True
        while more:
            message = await receive()
            content, more = content + message.get("body", b""), message.get("more_body", False)
        body = json.loads(content) if content else {}
        self.bodies.append((scope["path"], body))
        altered = scope["path"] == self.path
        if altered and self.refuses > 0:
            self.refuses -= 1
            await self._refuse(send)
            return
        if altered and self.whole:
            content = json.dumps({**body, "stream": False}).encode()
        given = [{"type": "http.request", "body": content}]

        async def again() -> Any:
            return given.pop() if given else await receive()

        length = (b"content-length", str(len(content)).encode())
        scope = {**scope, "headers": [*(h for h in scope["headers"] if h[0] != b"content-length"), length]}
        await self.app(scope, again, self._altered(send) if altered else send)

    async def _refuse(self, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self.refusal))]
        if self.retry_after is not None:
            headers.append((b"retry-after", self.retry_after))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.refusal})

    def _altered(self, send: Any) -> Any:
        packer = zlib.compressobj(wbits=31)
        number, ended = 0, False

        async def altered(message: Message) -> None:
            nonlocal number, ended
            if message["type"] == "http.response.start":
                dropped = {b"content-length"} if self.packed else set()
                kept = [h for h in message["headers"] if h[0] not in self.head and h[0] not in dropped]
                new = [(name, value) for name, value in self.head.items() if value is not None]
                new += [(b"content-encoding", b"gzip")] if self.packed else []
                await send({**message, "headers": [*kept, *new]})
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            if ended:
                return
            if self.events is not None and body:
                number += 1
                found = self.events(number, body)
                ended, body = found is None, found or b""
                more = more and not ended
            if self.packed:
                body = packer.compress(body) + packer.flush(zlib.Z_SYNC_FLUSH if more else zlib.Z_FINISH)
            await send({"type": "http.response.body", "body": body, "more_body": more})

        return altered


def breaking(frame: bytes, at: int = 10) -> Callable[[int, bytes], bytes | None]:
    """Put a frame in the place of an event, and end the answer after it."""

    def events(number: int, event: bytes) -> bytes | None:
        return None if number > at else frame if number == at else event

    return events
