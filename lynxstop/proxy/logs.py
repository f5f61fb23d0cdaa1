"""One JSON object per line and request: ids, counts and durations, never content."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

import orjson

from lynxstop.proxy.exchange import Incoming, Reply

logger = logging.getLogger("lynxstop.proxy")


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


def log_request(incoming: Incoming, reply: Reply, route: str) -> None:
    """Write the line of a request that has ended."""
    if not logger.isEnabledFor(logging.INFO):
        return
    now = time.monotonic()
    fields: dict[str, object] = {
        "id": incoming.id,
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
