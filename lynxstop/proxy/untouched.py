"""Requests that are forwarded as they are, because an exit could not be faithful."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from lynxstop.core.no_exit import why_no_exit
from lynxstop.remote.chat_route import GRAMMARS
from lynxstop.remote.dialects.base import TOP

_OBJECT, _NUMBER = dict | None, int | None
_OBJECTS = ("stream_options", "response_format")
_NUMBERS = ("stream", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs")

_ADDED_UP = ("presence_penalty", "frequency_penalty", "dry_multiplier", "mirostat", "no_repeat_ngram_size")
_MULTIPLIED = ("repetition_penalty", "repeat_penalty")
"""Penalties by which value changes nothing: 0 and 1."""

Body = Mapping[str, Any]


def has_tools(body: Body) -> bool:
    """Whether an answer to a request may call tools; on any route."""
    choice = body.get("tool_choice")
    choice = choice.get("type") if isinstance(choice, dict) else choice
    return bool(body.get("tools") or body.get("functions")) and choice != "none"


_CAUSES: Mapping[str, Callable[[Body], bool]] = {
    # Looked at first, so that the others may rely on it.
    "malformed": lambda body: (
        not isinstance(body.get("messages"), list)
        or not all(isinstance(body.get(name), _OBJECT) for name in _OBJECTS)
        or not all(isinstance(body.get(name), _NUMBER) for name in _NUMBERS)
    ),
    "several_choices": lambda body: body.get("n") not in (None, 1) or bool(body.get("use_beam_search")),
    # A grammar starts after the thinking; forced tokens would break it.
    "structured_output": lambda body: (
        (body.get("response_format") or {"type": "text"}).get("type") != "text"
        or any(body.get(name) for name in GRAMMARS)
    ),
    # A call that the model makes after a continuation would come as text.
    "tools": has_tools,
    # They look at what was generated, and a continuation calls that prompt.
    "penalties": lambda body: (
        any(body.get(name) for name in _ADDED_UP)
        or any(body.get(name) not in (None, 1) for name in _MULTIPLIED)
    ),
    "continued_message": lambda body: (
        bool(body.get("continue_final_message")) or body.get("add_generation_prompt") is False
    ),
    "usage_in_every_event": lambda body: bool(
        (body.get("stream_options") or {}).get("continuous_usage_stats")
    ),
    "echo": lambda body: bool(body.get("echo")),
    "thinking_hidden": lambda body: (
        body.get("include_reasoning") is False or body.get("stream_reasoning") is False
    ),
    # A continuation is written as text or tokens.
    "media": lambda body: any(_shows_media(message) for message in _list(body.get("messages"))),
    "own_limit": lambda body: body.get("n_predict") is not None,
    "prompt_logprobs": lambda body: body.get("prompt_logprobs") is not None,
    # More than what we ask for, which would be all that comes; completions have the number in `logprobs`.
    # With tokens of the client's choice, those are all that comes.
    "alternatives": lambda body: (
        any(not 0 <= (body.get(name) or 0) <= TOP for name in ("logprobs", "top_logprobs"))
        or bool(body.get("logprob_token_ids"))
    ),
    # Names in place of the text that is watched; and ids, which an exit's own events do not have.
    "token_ids": lambda body: bool(body.get("return_tokens_as_token_ids") or body.get("return_token_ids")),
}


BY_CHAT_ROUTE = frozenset({"structured_output", "tools", "media"})
"""Causes that do not hold where the chat route answers after an exit; see `lynxstop.proxy.chat_routes`."""


def causes(body: Body) -> Iterator[str]:
    """Give all causes that hold for a chat request, in the order in which they are counted."""
    return (cause for cause, present in _CAUSES.items() if present(body))


def why_untouched(
    body: Body,
    exit_text: str = "",
    exit_ids: Collection[int] = (),
    apart_from: frozenset[str] = frozenset(),
) -> str | None:
    """Return the cause, or None when a chat request can be watched.

    Parameters
    ----------
    body : dict
    apart_from : frozenset of str
        Causes that do not count.
    exit_text, exit_ids
        What an exit writes, and its tokens; see `lynxstop.core.no_exit`.
    """
    found = next((cause for cause in causes(body) if cause not in apart_from), None)
    return found or why_no_exit(body, exit_text, exit_ids)


def _shows_media(message: Any) -> bool:
    parts = message.get("content") if isinstance(message, dict) else None
    return any(
        isinstance(part, dict) and part.get("type") not in ("text", "thinking") for part in _list(parts)
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
