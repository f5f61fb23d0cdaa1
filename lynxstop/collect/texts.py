"""Between texts and tokens: prompts in, answers and cue words out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lynxstop.core.cues import CueSet
from lynxstop.core.thinking import Delimiters
from lynxstop.errors import DataError, LynxstopError, ModelError
from lynxstop.recordings.prompts import Prompt, messages

_CUE_TOKENS = 12


class Texts:
    """Reads and writes in the notation of one model.

    Parameters
    ----------
    tokenizer : object
        With a chat template.
    delimiters : Delimiters
        Of its thinking blocks.
    cues : CueSet
    """

    def __init__(self, tokenizer: Any, delimiters: Delimiters, cues: CueSet) -> None:
        self._tokenizer = tokenizer
        self._close = delimiters.close
        self._words = sorted((word.lower() for word in cues.words), key=len, reverse=True)

    def prompt_ids(self, prompt: Prompt, tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """Tokens of a prompt, and of the tools it may use, in the chat template, ready for the model's own.

        Raises
        ------
        ModelError
            When the tokenizer has no chat template.
        DataError
            When the template does not take the prompt.
        """
        if not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(
                "The tokenizer has no chat template.", hint="Use a chat model, or add a chat_template."
            )
        more = {"tools": list(tools)} if tools else {}
        turns = messages(prompt)
        try:
            text = self._tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False, **more
            )
        except LynxstopError:
            raise
        except Exception as error:  # templates raise what they like
            first = str(error).strip().partition("\n")[0].rstrip(".")
            raise DataError(
                f"The chat template does not take the prompt {str(turns)[:200]}: {first}.",
                hint="Some take no system text, or no tools. Leave those problems out, or change it.",
            ) from error
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, special ones included."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def after_thinking(self, text: str) -> str:
        """What follows the last thinking block; empty when the thinking never ends."""
        ends = [place + len(close) for close in self._close if (place := text.rfind(close)) >= 0]
        return text[max(ends) :] if ends else ""

    def cue_word(self, ids: Sequence[int], index: int) -> str:
        """The cue that the token at `index` completes, in lower case; a line break for a paragraph."""
        tail = self.decode(ids[max(0, index + 1 - _CUE_TOKENS) : index + 1])
        plain = " ".join(tail.lower().split())
        found = next((word for word in self._words if plain.endswith(word)), None)
        return found or ("\n\n" if tail.endswith("\n") else plain.split(" ")[-1])
