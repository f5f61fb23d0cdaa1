"""What is counted about an answer: by the proxy's decisions, and by the server's own usage."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lynxstop.proxy.exchange import Incoming
from lynxstop.proxy.metrics import Metrics
from lynxstop.remote.chat import Chat

TAIL = 4096
"""Bytes at the end of an answer in which its usage is looked for."""

_COUNTS = re.compile(rb'"(prompt_tokens|completion_tokens)"\s*:\s*(\d{1,12})\b')

_NAME = 200
"""Longest name of a group in the log."""


def count_chat(metrics: Metrics, incoming: Incoming, chat: Chat) -> None:
    """Count what was decided about a watched request, and note it for the log."""
    session = chat.session
    metrics.cues.inc(len(session.session.events))
    metrics.refilled_tokens.inc(chat.refilled)
    if chat.read:
        metrics.decision_seconds.observe(session.deciding / chat.read)
    thought = (
        session.truncation.thinking_tokens if chat.tried and session.truncation else sum(session.thinking)
    )
    mode = str(chat.client_request.mode)
    metrics.thinking_tokens.labels(mode).inc(thought)
    incoming.notes |= {"mode": mode, "risk": chat.client_request.risk, "dialect": chat.dialect.name}
    if chat.client_request.group is not None:
        incoming.notes["group"] = chat.client_request.group[:_NAME]
    if (taken := session.session.exit) is not None and session.truncation is not None:
        metrics.exits.labels(str(taken.reason), mode).inc()
        metrics.exit_thinking_tokens.observe(session.truncation.thinking_tokens)
        metrics.tokens_saved.labels(mode).inc(chat.final_report.get("saved_estimate", 0))
        incoming.notes |= {
            "exit": str(taken.reason),
            "stopped": chat.stopped,
            "thinking_tokens": session.truncation.thinking_tokens,
        }
    if (silence := incoming.notes.get("silence_seconds")) is not None:
        metrics.silence_seconds.labels(str(chat.stopped).lower()).observe(float(silence))
    if chat.in_place:
        metrics.continuations.labels("in_place").inc()
    if chat.tried:
        metrics.continuations.labels("done" if chat.final_report else "broken").inc()
        metrics.continuation_retries.inc(chat.tried - 1)


def note_all(incoming: Incoming, chats: Sequence[Chat]) -> None:
    """Note for the log what was decided about a request with several choices: all of them together."""
    if len(chats) > 1:
        thought = sum(chat.final_report.get("thinking_tokens") or 0 for chat in chats)
        stopped = sum(chat.stopped for chat in chats)
        incoming.notes |= {"choices": len(chats), "stopped": stopped, "thinking_tokens": thought}


def counted(tail: bytes) -> dict[str, int]:
    """Return the tokens that the end of an answer counts, if it can be read."""
    found = dict(_COUNTS.findall(tail))
    return {name.decode(): int(number) for name, number in found.items()}
