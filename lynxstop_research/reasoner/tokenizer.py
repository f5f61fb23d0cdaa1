"""Builds the tokenizer: byte-level BPE, so that any text round-trips, with a chat template."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lynxstop.demo.problems import MODULUS, draw
from lynxstop_research.reasoner.traces import CLOSE, EXIT, TraceWriter

BEGIN, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
THINK, END_THINK = "<think>", "</think>"

# Line breaks together; a word with its leading space and its full stop or colon; a number;
# other signs; other white space. Every character falls into exactly one alternative.
PIECES = r"\n+| ?\p{L}+[.:]?| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s"

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n<think>\\n' }}
{%- endif %}
"""


def build(problems: int = 3000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train the tokenizer on written traces; equal arguments give equal tokenizers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=20,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(problems, seed), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (PAD, BEGIN, END)])
    tokenizer.add_tokens([AddedToken(t, special=False) for t in (THINK, END_THINK)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save(folder: Path) -> PreTrainedTokenizerFast:
    """Build the tokenizer, save it to `folder` and return it."""
    tokenizer = build()
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    entries = json.loads(config.read_text())
    # The name that every version of transformers knows.
    entries["tokenizer_class"] = "PreTrainedTokenizerFast"
    # Else older versions name token types too, which the model does not take.
    entries["model_input_names"] = ["input_ids", "attention_mask"]
    config.write_text(json.dumps(entries, indent=2) + "\n")
    return tokenizer


def _texts(problems: int, seed: int) -> Iterator[str]:
    writer = TraceWriter(random.Random(seed))
    usual = draw(problems, seed, split="reasoner")
    for problem in usual + draw(problems // 4, seed, split="reasoner", hard=True):
        prompt = f"user\n{problem.prompt}\nassistant\n"
        text = prompt + writer.write(problem).thinking() + EXIT + problem.answer + CLOSE
        # "Alternatively" is kept in two tokens, as in many larger vocabularies.
        yield text.replace("Alternatively", "Altern\natively")
    yield from [" ".join(map(str, range(MODULUS)))] * 100
