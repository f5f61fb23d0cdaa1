"""One JSON object per line and request: ids, counts and durations, never content."""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime

import orjson

from lynxstop.errors import UpstreamError
from lynxstop.proxy.exchange import Incoming, Reply
from lynxstop.remote.server_error import http_status

logger = logging.getLogger("lynxstop.proxy")

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ID = re.compile(r"[!-~]{1,128}")
"""What a client may call its request in the log: a word without blanks."""


class JsonLines(logging.Formatter):
    """Writes a record, and the mapping under its `fields`, as one JSON object.

    Of an exception only its type is written: its message could hold content.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return orjson.dumps(line, default=str).decode()


def configure(level: int = logging.INFO) -> None:
    """Send the proxy's and the server's log lines to stderr as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name in ("lynxstop", "uvicorn.error"):
        named = logging.getLogger(name)
        named.handlers, named.propagate = [handler], False
        named.setLevel(level)


def noted(error: UpstreamError) -> dict[str, str | int]:
    """Return what the log says of a failure of the server: codes, and never its words."""
    said = getattr(error, "said", None) or {}
    found: dict[str, str | int] = {"code": error.code}
    status = getattr(error, "status", None) or http_status(said.get("code"))
    if status is not None:
        found["upstream_status"] = status
    if isinstance(code := said.get("code"), str) and _CODE.fullmatch(code):
        found["upstream_code"] = code
    return found


def _request_id(incoming: Incoming) -> str | None:
    """Return the id that the client gave its request, if it is one."""
    given = incoming.header("x-request-id")
    return given if given is not None and _ID.fullmatch(given) else None


def log_request(incoming: Incoming, reply: Reply, route: str) -> None:
    """Write the line of a request that has ended."""
    if not logger.isEnabledFor(logging.INFO):
        return
    now = time.monotonic()
    fields: dict[str, object] = {
        "id": incoming.id,
        "client_id": _request_id(incoming),
        "method": incoming.method,
        "route": route,
        "status": reply.status,
        "seconds": round(now - incoming.arrived, 6),
        "first_chunk_seconds": None
        if reply.first_at is None
        else round(reply.first_at - incoming.arrived, 6),
        "chunks": reply.chunks,
        "bytes": reply.size,
        **incoming.notes,
    }
    logger.info("request", extra={"fields": fields})
