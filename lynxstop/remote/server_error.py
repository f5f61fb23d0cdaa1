"""What a server says of an error, in whatever form it says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from lynxstop.errors import UpstreamError

Json = dict[str, Any]


class StreamedError(UpstreamError):
    """The server ended its stream with an error.

    Parameters
    ----------
    said : dict
        The error as the server said it: see `error_in`.
    """

    def __init__(self, said: Json) -> None:
        super().__init__("The server broke off with an error.", status=http_status(said.get("code")) or 502)
        self.said: Json | None = said


def error_in(document: Any) -> Json | None:
    """Return the error that a document or an event is; None when it is something else.

    Known are an object or a text under `error` (OpenAI, Anthropic, llama.cpp, Ollama), `detail` (FastAPI),
    and the error itself, `{"object": "error", "message": ...}` (older vLLM).

    Returns
    -------
    dict or None
        `message`, and of `type`, `param` and `code` what the server gave; further keys are kept.
    """
    if not isinstance(document, Mapping):
        return None
    inner = document.get("error")
    if isinstance(inner, Mapping):
        return _with_message(inner)
    if inner:
        kind = document.get("error_type") or document.get("type")
        return {"message": str(inner), **({"type": kind} if isinstance(kind, str) else {})}
    if isinstance(document.get("message"), str) and _is_error(document):
        return _with_message({name: value for name, value in document.items() if name != "object"})
    if "detail" in document and not document.keys() - {"detail", "title", "status", "type"}:
        detail = document["detail"]
        return {"message": detail if isinstance(detail, str) else orjson.dumps(detail).decode()}
    return None


def error_in_body(body: bytes) -> Json | None:
    """Return the error that a body is; None when it is no JSON, or no error."""
    try:
        return error_in(orjson.loads(body))
    except orjson.JSONDecodeError:
        return None


def http_status(code: Any) -> int | None:
    """Return a code as the status of an answer; None when it is none of an error."""
    try:
        status = int(code)
    except (TypeError, ValueError):
        return None
    return status if 400 <= status <= 599 else None


def shown(said: Mapping[str, Any], status: int, kind: str) -> Json:
    """Return a server's error with every key that clients of OpenAI's API read.

    Parameters
    ----------
    said : dict
        As `error_in` returns it; its own keys win.
    status : int
        Stands in for a missing code.
    kind : str
        Stands in for a missing type.
    """
    return {"message": "", "type": kind, "param": None, "code": status, **said}


def _is_error(document: Mapping[str, Any]) -> bool:
    """Whether a document with a message is an error itself, and no news such as "queued"."""
    named = (document.get("object"), document.get("type"))
    return any("error" in str(name).lower() for name in named) or bool(http_status(document.get("code")))


def _with_message(error: Mapping[str, Any]) -> Json:
    message = error.get("message")
    if not isinstance(message, str):
        message = str(error.get("detail") or error.get("code") or "The server gave no message.")
    return {**error, "message": message}
