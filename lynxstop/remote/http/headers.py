"""Which headers are forwarded, and which belong to one connection only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Headers = Sequence[tuple[bytes, bytes]]
"""Raw headers in order; names may repeat and are compared without case."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers of one connection, by RFC 9110 section 7.6.1."""

_REQUEST_ONLY = frozenset({b"host", b"expect"})
_KEEPS_RUNNING = frozenset({b"x-conversation-id"})
"""With this header, llama.cpp's server generates to the end after the client has disconnected."""
_OF_THE_BODY = frozenset({b"content-length", b"content-encoding", b"accept-encoding", b"content-type"})

_NOT_CALLED = HOP_BY_HOP | _REQUEST_ONLY | _OF_THE_BODY | _KEEPS_RUNNING

_OF_THE_ANSWER = frozenset(
    {b"content-length", b"content-encoding", b"content-type", b"cache-control", b"x-accel-buffering"}
)
_NOT_ANSWERED = HOP_BY_HOP | _OF_THE_ANSWER


def find(headers: Headers, name: bytes) -> bytes | None:
    """Return the first value of a header, or None; `name` in lower case."""
    for key, value in headers:
        if key.lower() == name:
            return value
    return None


def without(headers: Headers, names: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers except those of the given names, in lower case."""
    names = frozenset(names)
    return [(name, value) for name, value in headers if name.lower() not in names]


def for_relay(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers of a request that is forwarded as it is: all except those of the connection, and the host.

    Of a body in chunks a length says nothing (RFC 9112, section 6.3), and the server might believe it.
    """
    unsaid = {b"content-length"} if find(headers, b"transfer-encoding") is not None else frozenset()
    return without(headers, HOP_BY_HOP | _REQUEST_ONLY | _listed(headers) | unsaid)


def for_call(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers of a request that we write ourselves, as JSON and on a client's behalf."""
    kept = without(headers, _NOT_CALLED | _listed(headers))
    return [*kept, (b"content-type", b"application/json"), (b"accept-encoding", b"identity")]


def for_client(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers of an answer whose body is forwarded as it is."""
    return without(headers, HOP_BY_HOP | _listed(headers))


def for_answer(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers of an answer that we write ourselves from another: those about the body are left out."""
    return without(headers, _NOT_ANSWERED | _listed(headers))


def _listed(headers: Headers) -> frozenset[bytes]:
    """Names that the Connection header declares to be of the connection."""
    value = find(headers, b"connection")
    return frozenset(name.strip().lower() for name in value.split(b",")) if value else frozenset()
