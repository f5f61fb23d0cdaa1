"""What stands for a tokenizer when only a server knows the real one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

from lynxstop.core.stream import TextVocabulary


class StreamTokenizer:
    """Numbers whole prompts, and gives back the texts that a server streamed.

    Parameters
    ----------
    vocabulary : TextVocabulary
        Of the streams.
    """

    chat_template = "the server's"

    def __init__(self, vocabulary: TextVocabulary) -> None:
        self._vocabulary = vocabulary
        self._prompts: dict[int, str] = {}
        self._next = count()

    def apply_chat_template(self, turns: Sequence[dict[str, str]], tools: Any = None, **ignored: Any) -> str:
        """Return the messages and tools as JSON: the server applies its own template."""
        return json.dumps({"messages": list(turns), **({"tools": tools} if tools else {})})

    def encode(self, text: str, **ignored: Any) -> list[int]:
        """Number a prompt; `request` gives it back."""
        number = next(self._next)
        self._prompts[number] = text
        return [number]

    def request(self, ids: Sequence[int]) -> dict[str, Any]:
        """Return the messages of a prompt, and its tools if it has some, as a request names them."""
        found: dict[str, Any] = json.loads(self._prompts[ids[0]])
        return found

    def forget(self) -> None:
        """Forget all prompts."""
        self._prompts.clear()

    def decode(self, ids: Sequence[int], **ignored: Any) -> str:
        """Return the text of streamed tokens."""
        return b"".join(self._vocabulary.text(number) for number in ids).decode(errors="replace")
