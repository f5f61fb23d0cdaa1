"""The answer after an exit: the exit text and what the server continues with, as one stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from lynxstop.remote.answer import kept_of
from lynxstop.remote.delta import Delta, Json
from lynxstop.remote.dialects.base import AnswerLimits, Call
from lynxstop.remote.events import ClientEvent
from lynxstop.remote.second_request import SecondRequest
from lynxstop.remote.session import TruncationPoint
from lynxstop.remote.tokens import written

if TYPE_CHECKING:
    from lynxstop.remote.chat import Chat

_SLACK = 8
"""Tokens by which a continuation's prompt may be longer or shorter: text that is read again splits anew."""


async def continued(chat: Chat, truncation: TruncationPoint) -> AsyncGenerator[list[ClientEvent]]:
    """Send the exit text when the server has begun to continue, and what it answers.

    Parameters
    ----------
    chat : Chat
        Whose first stream is closed; its counts and its usage are those of both requests at the end.
    truncation : TruncationPoint

    Raises
    ------
    UpstreamError
        When the server does not continue.
    """
    assert chat.opening is not None
    limit = chat.client_request.max_tokens
    limits = AnswerLimits(
        None if limit is None else limit - chat.spent(truncation), chat.client_request.logprobs
    )
    opening, kept = chat.opening, kept_of(chat.session, truncation)
    second = SecondRequest(
        chat.server,
        lambda: chat.dialect.continuation(chat.server, opening, kept, limits),
        chat.dialect.read_continuation,
        chat.tries,
    )
    usage: Json = {}
    own = chat.upstream_tokens
    try:
        async with aclosing(second.bursts()) as arriving:
            async for arrived in arriving:
                said = [] if chat.stopped or not arrived else _exit_said(chat)
                chat.stopped = chat.stopped or bool(arrived)
                for event, delta in arrived:
                    # The same server calls itself the same on both routes, if it is known to that well.
                    if chat.dialect.exact:
                        chat.is_foreign(event)
                    usage = delta.usage or usage
                    chat.upstream_tokens += len(delta.tokens) or bool(delta.content or delta.opaque)
                    assert second.call is not None
                    if (one := _answered(chat, second.call, event, delta)) is not None:
                        said.append(one)
                if said or not arrived:
                    yield said
    finally:
        chat.tried = second.tried
    assert second.call is not None
    answered = usage.get("completion_tokens")
    if answered is not None:
        chat.upstream_tokens = own + int(answered)
    forced = second.call.forced or chat.config.exit_tokens
    _merge(chat, truncation, forced, usage, chat.upstream_tokens - own)


def _exit_said(chat: Chat) -> list[ClientEvent]:
    """Return the exit text as events; only once the server has begun to answer after it."""
    parts = chat.rewriter.split(chat.config.exit_text, chat.config.close)
    if chat.config.bare and len(parts) > 1:
        parts.pop()  # The answer is all the server's own.
    return [chat.rewriter.forced(text, thinking=inside) for text, inside in parts if text]


def _answered(chat: Chat, call: Call, event: Json, delta: Delta) -> ClientEvent | None:
    """Return an event of the continuation as the client gets it; the last goes to the rewriter."""
    if call.whole:
        return chat.rewriter.relayed(event)
    if not (delta.content or delta.finish):
        return None
    return chat.rewriter.in_order(chat.rewriter.said(delta.content, thinking=False, delta=delta, event=event))


def _merge(chat: Chat, truncation: TruncationPoint, forced: int, usage: Json, answered: int) -> None:
    """Merge the usage of both requests: the prompt once, and everything generated as one completion.

    Where the server does not count tokens, events are counted.
    """
    assert chat.opening is not None
    kept = len(written(chat.session.tokens[: truncation.index])) + (truncation.kept > 0)
    chat.refilled = int(usage.get("prompt_tokens") or 0)
    ids = chat.opening.prompt_ids
    if ids is not None and chat.refilled:
        chat.misread = abs(chat.refilled - len(ids) - kept - forced) > _SLACK
    prompt = len(ids) if ids is not None else max(0, chat.refilled - kept - forced)
    completion = kept + forced + answered
    chat.usage = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "completion_tokens_details": {"reasoning_tokens": truncation.thinking_tokens},
    }
