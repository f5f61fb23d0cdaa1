"""Bodies as JSON, also what the fast writer does not take: deep nesting, halves of surrogate pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from lynxstop.errors import RequestError


def encoded(body: Mapping[str, Any]) -> bytes:
    """Write a body as JSON.

    Raises
    ------
    RequestError
        When it is nested too deeply to be written.
    """
    try:
        return orjson.dumps(body)
    except TypeError:
        # Its reader takes 1,024 levels, its writer 254.
        pass
    try:
        return json.dumps(body, separators=(",", ":")).encode()
    except RecursionError:
        raise RequestError("The request's body is nested too deeply.", hint="Send a flatter one.") from None
