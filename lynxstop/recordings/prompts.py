"""Prompts: a user's turn as a text, or a conversation up to the model's turn."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from lynxstop.errors import DataError

Prompt = str | tuple[Mapping[str, str], ...]
"""A text, or messages with a `role` and a `content`; the last is the user's."""

_ROLES = {"human": "user", "gpt": "assistant"}


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
        raise DataError(
            f"{place}: the prompt must be a string or a list of chat messages.",
            hint="Write it as one, or name the column that holds one.",
        )
    turns = [_turn(turn, place) for turn in value]
    if turns[-1]["role"] == "assistant":  # the answer that a training set holds; the model gives its own
        turns.pop()
    if not turns or turns[-1]["role"] != "user":
        raise DataError(
            f"{place}: the last message is not the user's.", hint="Leave out the answer: the model gives one."
        )
    return turns[0]["content"] if len(turns) == 1 else tuple(turns)


def _turn(turn: Any, place: str) -> Mapping[str, str]:
    """Read a message as the chat template takes it; `from` and `value` are other names of the same."""
    given = turn if isinstance(turn, dict) else {}
    role, content = given.get("role") or given.get("from"), given.get("content") or given.get("value")
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise DataError(
            f"{place}: a chat message is an object with a role and a content, both strings.",
            hint="Only texts can be recorded, no images or tool calls.",
        )
    return {"role": _ROLES.get(role, role), "content": content}


def with_system(prompt: Prompt, system: Any) -> Prompt:
    """Return a prompt with a system text before it, unless there is none, or it has one already."""
    turns = messages(prompt)
    if not isinstance(system, str) or not system.strip() or turns[0]["role"] == "system":
        return prompt
    return ({"role": "system", "content": system}, *turns)


def read_tools(value: Any, place: str) -> tuple[Mapping[str, Any], ...]:
    """Read the tools that a chat template is given: a list of objects, or its JSON.

    Raises
    ------
    DataError
        When it is something else.
    """
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except ValueError:
            raise DataError(f"{place}: the tools are not JSON.", hint="Give a list of objects.") from None
    if not isinstance(value or [], list) or not all(isinstance(tool, dict) for tool in value or []):
        raise DataError(f"{place}: the tools must be a list of objects.", hint="As in the OpenAI API.")
    return tuple(_without_nulls(tool) for tool in value or [])


def _without_nulls(value: Any) -> Any:
    """Drop the keys that only other rows of a table have."""
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def messages(prompt: Prompt) -> list[dict[str, str]]:
    """Return a prompt as chat messages."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]


def content_id(prompt: Prompt, tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the id of a problem that has none: a digest of its prompt, the same in every split and slice."""
    text = prompt if isinstance(prompt, str) else json.dumps(messages(prompt))
    text += json.dumps(tools, sort_keys=True) if tools else ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prompt_digest(prompt: Prompt, tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return what equal prompts share, however they are called and spelt: 128 bits of a SHA-256, in hex.

    Compared are the turns in the compatibility form of Unicode (NFKC), without letter case and characters
    that show nothing, and with every run of white space as one space.

    Examples
    --------
    >>> prompt_digest("Add  2 and\\n3.") == prompt_digest("ADD 2 and 3.")
    True
    """
    turns = [[normal_text(turn["role"]), normal_text(turn["content"])] for turn in messages(prompt)]
    turns += [["tools", json.dumps(tools, sort_keys=True)]] if tools else []
    return hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:32]


def normal_text(text: str) -> str:
    """Return a text in NFKC, without letter case and format characters, white space as one space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    if not folded.isascii():
        folded = "".join(one for one in folded if unicodedata.category(one) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", folded).split())
