"""Content codings: unpack a body while it arrives."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from lynxstop.errors import UpstreamError

PACKED = frozenset({"gzip", "x-gzip", "deflate"})
"""Codings that can be unpacked."""

READABLE = PACKED | {"identity"}

_WHOLE = 64 * 2**20

AT_ONCE = 2**20
"""Most bytes that are unpacked at a time."""


def coding_of(value: str | bytes | None) -> str:
    """Return the coding that a header `content-encoding` names; "identity" without one."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return (text or "").strip().lower() or "identity"


def unpacker(coding: str, begins: bytes = b"\x78") -> Any:
    """Make what unpacks a body of a coding in `PACKED`; see `zlib.decompressobj`.

    Parameters
    ----------
    coding : str
    begins : bytes
        How the body begins: some servers leave out the two bytes of zlib's header with "deflate".
    """
    if coding == "deflate":
        return zlib.decompressobj(wbits=15 if begins[:1] == b"\x78" else -15)
    return zlib.decompressobj(wbits=31)


async def unpacked(chunks: AsyncIterable[bytes], coding: str) -> AsyncIterator[bytes]:
    """Unpack a body, giving what can be read of each chunk as it arrives.

    Raises
    ------
    UpstreamError
        When the body is not in this coding.
    """
    current: Any = None
    async for chunk in chunks:
        rest = chunk
        while rest:
            if current is None or current.eof:
                current = unpacker(coding, rest)
            try:
                plain = current.decompress(rest, AT_ONCE)
            except zlib.error:
                raise UpstreamError(
                    "The server's answer does not unpack as its content coding says.",
                    code="upstream_nonsense",
                ) from None
            # A member of gzip may be followed by another.
            rest = current.unused_data if current.eof else current.unconsumed_tail
            if plain:
                yield plain


def plain(body: bytes, coding: str) -> bytes:
    """Unpack a whole body, as far as it can be unpacked.

    Raises
    ------
    UpstreamError
        When the body is not in this coding.
    """
    if coding not in PACKED:
        return body
    current = unpacker(coding, body)
    try:
        found: bytes = current.decompress(body, _WHOLE)
    except zlib.error:
        raise UpstreamError(
            "The server's answer does not unpack as its content coding says.", code="upstream_nonsense"
        ) from None
    if current.unconsumed_tail:
        raise UpstreamError("The server's answer is too large.", code="upstream_nonsense")
    return found
