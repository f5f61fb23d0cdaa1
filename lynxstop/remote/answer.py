"""The answer that a server gives behind an exit forced in what it wrote."""

from __future__ import annotations

from lynxstop.remote.dialects.base import Delta, Dialect, Kept, Limits, Opening
from lynxstop.remote.server import Server
from lynxstop.remote.session import Cut, StreamSession
from lynxstop.remote.stream import continued_stream
from lynxstop.remote.tokens import StreamToken, written


def kept_of(session: StreamSession, cut: Cut) -> Kept:
    """What of a stream stays at a cut, and what is put behind it."""
    tokens, terms = session.tokens, session.terms
    tail = tokens[cut.index].text[: cut.kept] if cut.kept else b""
    return Kept(
        written(tokens[: cut.index]),
        tail,
        terms.exit_text,
        terms.exit_ids,
        terms.open[0],
        session.opened_by_field,
    )


async def answer_behind(
    server: Server, dialect: Dialect, opening: Opening, session: StreamSession, cut: Cut, limits: Limits
) -> tuple[list[Delta], list[StreamToken], str]:
    """Let the server answer behind a cut.

    Returns
    -------
    (deltas, tokens, finish)
        All events and all tokens of the answer, without the exit text; "stop" or "length".

    Raises
    ------
    UpstreamError
        When the server fails, or cannot continue.
    """
    call = await dialect.continuation(server, opening, kept_of(session, cut), limits)
    deltas: list[Delta] = []
    async with continued_stream(server, dialect, call) as stream:
        async for _, delta in stream:
            deltas.append(delta)
    tokens = [token for delta in deltas for token in delta.tokens]
    finish = next((delta.finish for delta in reversed(deltas) if delta.finish), "")
    return deltas, tokens, "stop" if finish == "stop" else "length"
