"""The requests that are being watched, and what was decided about the last ones; ids and counts alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lynxstop.core.exits import Mode
from lynxstop.errors import RequestError
from lynxstop.proxy.exchange import Incoming
from lynxstop.remote.chat import Chat

Json = dict[str, Any]

KEPT = 100
"""Decisions that are remembered."""

_THINKING = ("waiting", "thinking")

_REPORTED = (
    "exit", "stopped", "thinking_tokens", "cue", "score", "threshold", "saved_estimate", "certificate",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Request:
    incoming: Incoming
    mode: Mode
    risk: float | None
    chats: Sequence[Chat]

    @property
    def state(self) -> str:
        """That of the first chat that can still be asked to answer, or else of the first."""
        states = [chat.state for chat in self.chats]
        return next((state for state in states if state in _THINKING), states[0])


class Running:
    """Watched requests of one process.

    Attributes
    ----------
    decisions : deque of dict
        The last requests that ended, the newest first.
    """

    def __init__(self) -> None:
        self.decisions: deque[Json] = deque(maxlen=KEPT)
        self._requests: dict[str, _Request] = {}

    @contextmanager
    def entered(
        self, incoming: Incoming, mode: Mode, risk: float | None, chats: Sequence[Chat]
    ) -> Iterator[None]:
        """List a request while the block runs; its chats are its choices, or race for it."""
        self._requests[incoming.id] = _Request(incoming, mode, risk, chats)
        try:
            yield
        finally:
            del self._requests[incoming.id]

    def decided(self, incoming: Incoming, chat: Chat) -> None:
        """Remember how a request ended."""
        report: Mapping[str, Any] = chat.final_report
        if not report:
            return
        self.decisions.appendleft(
            {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "id": incoming.id,
                "route": incoming.path,
                "model": incoming.notes.get("model"),
                "mode": str(chat.client_request.mode),
                "not_stopped_because": chat.blind or None,
                **{name: report[name] for name in _REPORTED if name in report},
            }
        )

    def listed(self) -> list[Json]:
        """Return the requests under way, the oldest first."""
        now = time.monotonic()
        return [
            {
                "id": request.incoming.id,
                "client_id": _client_id(request.incoming),
                "route": request.incoming.path,
                "model": request.incoming.notes.get("model"),
                "mode": str(request.mode),
                "risk": request.risk,
                "seconds": round(now - request.incoming.arrived, 3),
                "state": request.state,
                "thinking_tokens": max(sum(chat.session.thinking) for chat in request.chats),
                "samples": len(request.chats),
            }
            for request in self._requests.values()
        ]

    def answer_now(self, id: str) -> Json:
        """End the thinking of a request at its next token.

        Parameters
        ----------
        id : str
            The proxy's, from `listed`, the log or the header `x-lynxstop-request`; or the client's own
            `x-request-id`, if only one running request has it.

        Raises
        ------
        RequestError
            When no such request is being watched (404), or it does not think any more (409).
        """
        request = self._requests.get(id)
        if request is None:
            named = [one for one in self._requests.values() if _client_id(one.incoming) == id]
            if len(named) != 1:
                raise RequestError(
                    "No request with this id is being watched.",
                    status=404,
                    code="no_such_request",
                    hint="GET /lynxstop/requests lists those of this worker process.",
                )
            request = named[0]
        chats = [chat for chat in request.chats if chat.state in _THINKING]
        if not chats:
            raise RequestError(
                f"The request is not thinking: its state is {request.state}.",
                status=409,
                code="not_thinking",
            )
        for chat in chats:
            chat.answer_now()
        return {"id": request.incoming.id, "state": "asked"}


def _client_id(incoming: Incoming) -> str | None:
    found = incoming.header("x-request-id")
    return None if found is None else found[:200]
