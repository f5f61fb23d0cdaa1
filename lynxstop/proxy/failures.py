"""Errors as a route's clients expect them.

The server's own are passed on as it said them; ours have no content, no key, no address.
"""

from __future__ import annotations

import json
from typing import Any

from lynxstop.errors import LynxstopError, RequestError, UpstreamError
from lynxstop.proxy.exchange import Reply
from lynxstop.remote import server_error

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"

_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_body(error: LynxstopError, route: str = "") -> bytes:
    """Write an error as the JSON object of a route's API: OpenAI's, unless it is Anthropic's."""
    return json.dumps(_shown(error, route)).encode()


def error_event(error: LynxstopError, route: str = "") -> bytes:
    """Write an error as a server-sent event: what clients raise in the middle of a stream."""
    shown = _shown(error, route)
    if route == RESPONSES:
        # The flat keys are the protocol's event; by the object within, clients of other routes know it too.
        shown = {**shown["error"], **shown, "type": "error", "sequence_number": 0}
    name = b"event: error\n" if route in (MESSAGES, RESPONSES) else b""
    return name + b"data: " + json.dumps(shown).encode() + b"\n\n"


def by_status(status: int, message: str, kind: str | None = None) -> dict[str, Any]:
    """Write an error in Anthropic's shape, its type by the status unless `kind` is one of Anthropic's."""
    if kind not in _ANTHROPIC.values():
        kind = _ANTHROPIC.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


async def answer(reply: Reply, error: LynxstopError) -> None:
    """Tell the client of an error, by what of the answer has gone out already.

    Nothing yet: a status and a JSON body. Whole events: an error event, and the end. Anything else is left
    without its end, so that the server closes the connection and the client sees that the answer is cut.
    """
    if reply.ended:
        return
    if reply.started:
        if reply.at_event:
            await reply.end(error_event(error, reply.route))
        return
    body = error_body(error, reply.route)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if isinstance(error, RequestError):
        # The rest of the request's body is not read.
        headers.append((b"connection", b"close"))
        if error.retry_after is not None:
            headers.append((b"retry-after", str(error.retry_after).encode()))
        if error.status_code == 401:
            headers.append((b"www-authenticate", b"Bearer"))
    await reply.start(error.status_code, headers)
    await reply.end(body)


def _shown(error: LynxstopError, route: str) -> dict[str, Any]:
    said: dict[str, Any] | None = getattr(error, "said", None)
    if route == MESSAGES:
        return by_status(error.status_code, said["message"] if said else str(error), (said or {}).get("type"))
    if said is not None:
        return {"error": server_error.shown(said, error.status_code, UpstreamError.kind)}
    shown = {
        "message": str(error),
        "type": getattr(error, "kind", "invalid_request_error"),
        "param": None,
        "code": getattr(error, "code", None),
    }
    return {"error": shown}
