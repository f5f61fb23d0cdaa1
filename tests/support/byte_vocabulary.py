"""A byte-level tokenizer that can write any text, with special tokens as asked."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


def byte_tokenizer(special: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a small one."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["Wait, hmm. Alternatively, the final answer is"] * 3, trainer)
    made.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return PreTrainedTokenizerFast(tokenizer_object=made)
