"""What tokens write agrees with what their tokenizer decodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.surface import INERT, added_tokens, token_surfaces
from lynxstop.errors import TokenizerError

LINES = [
    "Wait, hold on: the waiter will await us. Hmm. So the answer is 42.",
    "Élan! größer, подожди. 等等 \U0001f600 x",
]


def written(tokenizer, ids):
    surfaces = token_surfaces(tokenizer)
    symbols = [symbol for token in ids for symbol in surfaces[token]]
    return bytes(s for s in symbols if s < INERT).decode()


@pytest.mark.parametrize("line", LINES)
def test_tokens_write_what_the_tokenizer_decodes(tokenizer, encode, line):
    ids = encode(tokenizer, line)
    unknown = {i for i, text in added_tokens(tokenizer).items() if "unk" in text.lower()}
    ids = [token for token in ids if token not in unknown]
    assert written(tokenizer, ids).strip() == tokenizer.decode(ids).strip()


@pytest.mark.parametrize("lossless", ["byte-level", "sentencepiece", "metaspace", "tiktoken"])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0<["), max_size=20))
def test_tokens_that_keep_every_byte_write_the_text(tokenizers, encode, lossless, text):
    text = text.replace("▁", "")
    assert written(tokenizers[lossless], encode(tokenizers[lossless], text)) == text


def test_special_tokens_have_a_symbol_of_their_own(tokenizer):
    surfaces = token_surfaces(tokenizer)
    special = {text: i for i, text in added_tokens(tokenizer).items()}
    assert surfaces[special["</think>"]] == (surfaces.private["</think>"],)
    assert surfaces[special["</think>"]] != surfaces[special["<think>"]]


def test_white_space_that_was_added_to_the_vocabulary_stays_text(tokenizers):
    tokenizer = tokenizers["byte-level"]
    assert bytes(token_surfaces(tokenizer)[tokenizer.token_to_id("\n\n")]) == b"\n\n"


def test_ids_without_a_token_are_inert(tokenizers):
    surfaces = token_surfaces(tokenizers["tiktoken"])
    hole = len(surfaces) - 4
    assert surfaces[hole] == surfaces[len(surfaces) + 10] == surfaces[-1] == (INERT,)


def test_something_else_is_refused():
    with pytest.raises(TokenizerError, match="object"):
        token_surfaces(object())
