"""Prompts: a user's turn as a text, or a conversation up to the model's turn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lynxstop.errors import DataError

Prompt = str | tuple[Mapping[str, str], ...]
"""A text, or messages with a `role` and a `content`; the last is the user's."""


def read_prompt(value: Any, place: str) -> Prompt:
    """Check a prompt; a conversation of one user message becomes its text.

    Raises
    ------
    DataError
        When it is neither a text nor such messages; `place` says where it was found.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"{place}: the prompt must be a string or a list of chat messages.")
    turns: list[Mapping[str, str]] = []
    for turn in value:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(
                f"{place}: a chat message is an object with a role and a content, both strings.",
                hint="Only texts can be recorded, no images or tool calls.",
            )
        turns.append({"role": role, "content": content})
    if turns[-1]["role"] != "user":
        raise DataError(
            f"{place}: the last message is not the user's.", hint="Leave out the answer: the model gives one."
        )
    return turns[0]["content"] if len(turns) == 1 else tuple(turns)


def messages(prompt: Prompt) -> list[dict[str, str]]:
    """Return a prompt as chat messages."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]


def content_id(prompt: Prompt) -> str:
    """Return the id of a problem that has none: a digest of its prompt, the same in every split and slice."""
    text = prompt if isinstance(prompt, str) else json.dumps(messages(prompt))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
