"""The answer that a server gives after an exit was forced into its stream."""

from __future__ import annotations

from lynxstop.remote.delta import Delta
from lynxstop.remote.dialects.base import AnswerLimits, Dialect, Kept, Opening
from lynxstop.remote.server import Server
from lynxstop.remote.session import StreamSession, TruncationPoint
from lynxstop.remote.stream import continued_stream
from lynxstop.remote.tokens import StreamToken, written


def kept_of(session: StreamSession, truncation: TruncationPoint) -> Kept:
    """Return what stays of a stream that is truncated, and what is put after it."""
    tokens, config = session.tokens, session.config
    tail = tokens[truncation.index].text[: truncation.kept] if truncation.kept else b""
    return Kept(
        written(tokens[: truncation.index]),
        tail,
        config.exit_text,
        config.exit_ids,
        config.open[0],
        session.opened_by_field,
    )


async def answer_after(
    server: Server,
    dialect: Dialect,
    opening: Opening,
    session: StreamSession,
    truncation: TruncationPoint,
    limits: AnswerLimits,
) -> tuple[list[Delta], list[StreamToken], str]:
    """Let the server answer from the truncated stream and the exit text.

    Returns
    -------
    (deltas, tokens, finish)
        All events and all tokens of the answer, without the exit text; "stop" or "length".

    Raises
    ------
    UpstreamError
        When the server fails, or cannot continue.
    """
    call = await dialect.continuation(server, opening, kept_of(session, truncation), limits)
    deltas: list[Delta] = []
    async with continued_stream(server, dialect, call) as stream:
        async for _, delta in stream:
            deltas.append(delta)
    tokens = [token for delta in deltas for token in delta.tokens]
    finish = next((delta.finish for delta in reversed(deltas) if delta.finish), "")
    return deltas, tokens, "stop" if finish == "stop" else "length"
