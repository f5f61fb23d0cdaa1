"""Prompts: a user's turn as a text, or a conversation up to the model's turn."""

from __future__ import annotations

import hashlib
import json
import unicodedata
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


def prompt_digest(prompt: Prompt) -> str:
    """Return what equal prompts share, however they are called and spelt: 128 bits of a SHA-256, in hex.

    Compared are the turns in the compatibility form of Unicode (NFKC), without letter case, and with every
    run of white space as one space.

    Examples
    --------
    >>> prompt_digest("Add  2 and\\n3.") == prompt_digest("ADD 2 and 3.")
    True
    """
    turns = [[normal_text(turn["role"]), normal_text(turn["content"])] for turn in messages(prompt)]
    return hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:32]


def normal_text(text: str) -> str:
    """Return a text in the compatibility form of Unicode, without letter case, white space as one space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())
