"""What a server says of an error, in whatever form it says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from lynxstop.errors import UpstreamError

Json = dict[str, Any]

_MESSAGES = ("message", "msg", "error_msg", "faultstring")
_CODES = ("code", "statusCode", "status_code", "error_code")


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
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    if not isinstance(document, Mapping):
        return None
    inner = _inner(document)
    if isinstance(inner, Mapping):
        return _with_message(inner)
    if inner and (isinstance(inner, str) or _words(document) is None):
        kind, code = document.get("error_type") or document.get("type"), _code(document)
        said = {"type": kind if isinstance(kind, str) else None, "code": code}
        return {"message": str(inner), **{name: value for name, value in said.items() if value is not None}}
    if _words(document) is not None and (inner or _is_error(document)):
        return _with_message({name: value for name, value in document.items() if name != "object"})
    if "detail" in document and not document.keys() - {"detail", "title", "status", "type"}:
        detail = document["detail"]
        return {"message": detail if isinstance(detail, str) else orjson.dumps(detail).decode()}
    return None


def _inner(document: Mapping[str, Any]) -> Any:
    """Return what a document, or its choice, has under `error`, or as the first of its `errors`."""
    found, several = document.get("error"), document.get("errors")
    if not found and isinstance(several, list) and several:
        found = several[0]
    choices = document.get("choices")
    if not found and isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        found = choices[0].get("error")
    # Some gateways wrap the error that they got.
    while isinstance(found, Mapping) and isinstance(found.get("error"), Mapping):
        found = found["error"]
    return found or None


def _words(document: Mapping[str, Any]) -> str | None:
    """Return the message of a document, by the keys under which servers have it."""
    return next((document[name] for name in _MESSAGES if isinstance(document.get(name), str)), None)


def error_in_body(body: bytes) -> Json | None:
    """Return the error that a body is; None when it is not JSON, or not an error."""
    try:
        return error_in(orjson.loads(body))
    except orjson.JSONDecodeError:
        return None


def http_status(code: Any) -> int | None:
    """Return a code as the status of an answer; None when it is not an error status."""
    try:
        status = int(code)
    except (OverflowError, TypeError, ValueError):
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
    """Whether a document with a message is an error itself, and not news such as "queued"."""
    named = (document.get("object"), document.get("type"), document.get("status"))
    if any("error" in str(name).lower() for name in named) or "error_msg" in document:
        return True
    if isinstance(code := document.get("code"), str) and "choices" not in document:
        return bool(code.strip("0")) and code not in ("200", "ok", "OK", "success")
    return any(http_status(document.get(name)) for name in _CODES) or (
        "msg" in document and document.get("code") not in (None, 0, 200)
    )


def _with_message(error: Mapping[str, Any]) -> Json:
    message = _words(error)
    if message is None:
        message = str(error.get("detail") or error.get("code") or "The server gave no message.")
    code = _code(error)
    return {**error, "message": message, **({} if code is None else {"code": code})}


def _code(error: Mapping[str, Any]) -> Any:
    return next((error[name] for name in _CODES if error.get(name) is not None), None)
