"""The list of model families holds every notation of thinking that vLLM's reasoning parsers know."""

import ast
import importlib.util
from pathlib import Path

import pytest

from lynxstop.core.families import NO_FAMILY, ROWS
from lynxstop.core.thinking import FAMILIES, Delimiters, detect_delimiters, marks_of
from lynxstop.errors import ModelError


class Named:
    """A tokenizer with these special tokens."""

    def __init__(self, special, template=None):
        self.chat_template = template
        self.special_tokens_set = set(special)

    def decode_single_token_bytes(self, token):
        return b"a"

    def encode_single_token(self, text):
        return sorted(self.special_tokens_set).index(text)


def registered():
    """Names of vLLM's reasoning parsers, read from its source."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    source = (Path(found.origin).parent / "reasoning" / "__init__.py").read_text()
    table = source.partition("_REASONING_PARSERS_TO_REGISTER = ")[2].partition("\n}\n")[0]
    return set(ast.literal_eval(table + "}"))


def test_every_parser_of_vllm_has_a_family_or_a_reason():
    known = [name for row in ROWS for name in row.parsers]
    assert len(known) == len(set(known))
    assert not set(known) & set(NO_FAMILY)
    assert registered() - set(known) - set(NO_FAMILY) == set()
    assert all(len(reason) > 20 for reason in NO_FAMILY.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_family_is_recognised_by_its_tokens_even_beside_plain_ones(row):
    # given a vocabulary that keeps `<think>` beside the notation of its own, as MiniMax's and Kimi's do
    marks = {mark for text in (*row.open, *row.close) for mark in marks_of(text)}
    newer = row in ROWS[: [r.name for r in ROWS].index("think")]
    tokenizer = Named(marks | ({"<think>", "</think>"} if newer else set()))

    assert detect_delimiters(tokenizer) == FAMILIES[row.name]


def test_an_end_of_message_in_a_template_is_no_sign_of_thinking():
    with pytest.raises(ModelError, match="no thinking block"):
        detect_delimiters(Named([], "{{ content }}<|end|><|eom|>"))


def test_a_code_of_the_checkpoint_belongs_to_the_delimiter():
    tokenizer = Named(["<think:6124c78e>", "</think:6124c78e>", "<answer>"])
    assert detect_delimiters(tokenizer) == Delimiters(("<think:6124c78e>",), ("</think:6124c78e>",))
