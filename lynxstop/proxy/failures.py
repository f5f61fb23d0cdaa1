"""Errors as clients of the OpenAI API expect them; no content, no key, no address."""

from __future__ import annotations

import json

from lynxstop.errors import LynxstopError, RequestError
from lynxstop.proxy.exchange import Reply


def error_body(error: LynxstopError) -> bytes:
    """Write an error as the JSON object of the OpenAI API."""
    shown = {
        "message": str(error),
        "type": getattr(error, "kind", "invalid_request_error"),
        "param": None,
        "code": getattr(error, "code", None),
    }
    return json.dumps({"error": shown}).encode()


def error_event(error: LynxstopError) -> bytes:
    """Write an error as a server-sent event: what clients raise in the middle of a stream."""
    return b"data: " + error_body(error) + b"\n\n"


async def answer(reply: Reply, error: LynxstopError) -> None:
    """Tell the client of an error, by what of the answer has gone out already.

    Nothing yet: a status and a JSON body. Whole events: an error event, and the end. Anything else is left
    without its end, so that the server closes the connection and the client sees that the answer is cut.
    """
    if reply.ended:
        return
    if reply.started:
        if reply.at_event:
            await reply.end(error_event(error))
        return
    body = error_body(error)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if isinstance(error, RequestError):
        # What is left of the request's body is not read.
        headers.append((b"connection", b"close"))
        if error.retry_after is not None:
            headers.append((b"retry-after", str(error.retry_after).encode()))
        if error.status_code == 401:
            headers.append((b"www-authenticate", b"Bearer"))
    await reply.start(error.status_code, headers)
    await reply.end(body)
