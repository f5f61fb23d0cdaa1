"""Whether an answer is a stream of events, of lines, or one document: by its type, else by how it begins."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from enum import Enum, auto
from typing import Any

import orjson

MARK = b"\xef\xbb\xbf"
"""Byte order mark that a stream may begin with."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_FIELDS = (b"data:", b"event:", b"id:", b"retry:")
_LONGEST = max(map(len, _FIELDS))


class Form(Enum):
    """How a body is to be read."""

    EVENTS = auto()
    """Server-sent events."""
    LINES = auto()
    """One JSON object per line, each a part of the answer."""
    DOCUMENT = auto()
    """Anything else."""


def form_of(content_type: bytes) -> Form | None:
    """Return the form that a content type declares; None where only the body can say."""
    kind = content_type.lower()
    if kind.startswith(b"text/event-stream"):
        return Form.EVENTS
    return Form.LINES if kind.startswith(b"application/x-ndjson") else None


async def recognised(
    chunks: AsyncIterable[bytes], limit: int, declared: Form | None = None
) -> tuple[Form, AsyncIterator[bytes]]:
    """Recognise the form of a body by how it begins; return it, and the body from its beginning.

    Servers declare a stream of events too where they send an error, or all of an answer, as JSON.

    Parameters
    ----------
    chunks : async iterable of bytes
    limit : int
        Bytes after which a body without a line end is a document.
    declared : Form, optional
        What a body is that begins in no way that is known.
    """
    rest, head, form = aiter(chunks), b"", None
    async for chunk in rest:
        head += chunk
        form = _begins(head, declared)
        if form is not None or len(head) > limit:
            break

    async def whole() -> AsyncIterator[bytes]:
        yield head
        async for chunk in rest:
            yield chunk

    json = head.removeprefix(MARK).lstrip().startswith(b"{")
    return form or (Form.DOCUMENT if json else declared or Form.DOCUMENT), whole()


def _begins(head: bytes, declared: Form | None) -> Form | None:
    """Recognise a form by the first bytes; None when they are too few."""
    if head.startswith(_UTF_16):
        return Form.DOCUMENT
    text = head.removeprefix(MARK).lstrip()
    if text.startswith((b":", *_FIELDS)):
        return Form.EVENTS
    if text.startswith(b"{"):
        line, end, _ = text.partition(b"\n")
        return None if not end else Form.LINES if _is_part(line) else Form.DOCUMENT
    if declared is not None and text:
        return declared
    return Form.DOCUMENT if len(text) >= _LONGEST else None


def _is_part(line: bytes) -> bool:
    """Whether a line is a part of an answer by itself."""
    try:
        found: Any = orjson.loads(line)
        choice: Any = next(iter(found.get("choices") or ()), {})
    except (orjson.JSONDecodeError, AttributeError):
        return False
    part = "delta" in choice or ("text" in choice and not choice.get("finish_reason"))
    return part or "done" in found or bool(found.get("error"))
