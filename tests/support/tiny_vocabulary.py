"""A tiny vocabulary in which cues are frequent."""

from __future__ import annotations

from collections.abc import Sequence

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

PLAIN = (
    "Wait", "ĠWait", "Hmm", "Hmm,", "er", "ing", "Ġ", ".", "a", "b", "Ġso", "Ġthe", "Ġ1", "Ġ2", "3", "Ċ", "=",
)  # fmt: skip
END = "<|end|>"


def make_tokenizer(
    special: Sequence[str], plain: Sequence[str] = PLAIN
) -> transformers.PreTrainedTokenizerFast:
    """Make a byte-level tokenizer without merges; `special` holds `END`, and its ids come first."""
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate((*special, *plain))}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END)
    made.add_special_tokens({"additional_special_tokens": [text for text in special if text != END]})
    return made
