"""Requests that are passed through as they are, because an exit could not be carried out faithfully."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NUMBERS = ("max_tokens", "max_completion_tokens", "top_logprobs")


_GRAMMARS = (
    "structured_outputs", "guided_json", "guided_regex", "guided_choice", "grammar", "json_schema", "regex",
    "ebnf",
)  # fmt: skip


def why_untouched(body: Mapping[str, Any]) -> str | None:
    """Return the cause, or None when a chat request can be watched."""
    options = body.get("stream_options")
    causes = {
        "malformed": not isinstance(body.get("messages"), list)
        or not isinstance(options, dict | None)
        or not all(isinstance(body.get(name), int | None) for name in _NUMBERS),
        "several_choices": body.get("n") not in (None, 1) or bool(body.get("use_beam_search")),
        # A grammar starts behind the thinking; what is forced there would break it.
        "structured_output": (body.get("response_format") or {"type": "text"}).get("type") != "text"
        or any(body.get(name) for name in _GRAMMARS),
        # A call that the model makes after a continuation would come as text.
        "tools": bool(body.get("tools") or body.get("functions")) and body.get("tool_choice") != "none",
        # They look at what was generated, and a continuation calls that prompt.
        "penalties": bool(body.get("presence_penalty") or body.get("frequency_penalty"))
        or body.get("repetition_penalty") not in (None, 1, 1.0),
        "min_tokens": bool(body.get("min_tokens")),
        "continued_message": bool(body.get("continue_final_message"))
        or body.get("add_generation_prompt") is False,
        "usage_in_every_event": bool(options and options.get("continuous_usage_stats")),
        "echo": bool(body.get("echo")),
        "thinking_hidden": body.get("include_reasoning") is False or body.get("stream_reasoning") is False,
        # A continuation is written as text or tokens.
        "media": any(_shows_media(message) for message in _list(body.get("messages"))),
        "own_limit": body.get("n_predict") is not None,
        "prompt_logprobs": body.get("prompt_logprobs") is not None,
    }
    return next((cause for cause, present in causes.items() if present), None)


def _shows_media(message: Any) -> bool:
    parts = message.get("content") if isinstance(message, dict) else None
    return any(
        isinstance(part, dict) and part.get("type") not in ("text", "thinking") for part in _list(parts)
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
