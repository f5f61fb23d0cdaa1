"""Small real tokenizers, one per kind, trained here; and a hand-made vocabulary for the session."""

import io
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from lynxstop.core.cues import CueSet, compile_cues
from lynxstop.core.surface import Surfaces
from lynxstop.core.thinking import Delimiters, compile_thinking
from lynxstop.core.watch import Watch

TEXT = [
    "Wait, let me think. Hmm, the waiter will await us. Hold on, hold  on! wait wait hmm.",
    "HMM... WAIT. Alternatively, alternatively\nhold on\n\nSo the answer is 42.\n",
    "Élan! élan: der Mörder wartet, größer als ÉLAN. подожди, Подожди! Нет, неподожди.",
    "等等,我想。等等等。 else\n\n\nwait",
] * 4
SPECIAL = ["<think>", "</think>", "<|end|>"]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False)])
    return tokenizer


def sentence_piece() -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in TEXT for line in text.split("\n") if line]),
        model_writer=model, vocab_size=360, model_type="bpe", byte_fallback=True, character_coverage=0.98,
        add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity",
        control_symbols=SPECIAL, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def metaspace() -> PreTrainedTokenizerFast:
    processor = sentence_piece()
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=processor.unk_id(), byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def word_piece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", *SPECIAL], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def slow_word_piece() -> PreTrainedTokenizer:
    # From transformers 5 on, the name without "Legacy" is that of a fast one.
    kind = getattr(transformers, "BertTokenizerLegacy", None) or transformers.BertTokenizer
    vocabulary = word_piece().get_vocab()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.txt"
        texts = [*sorted(vocabulary, key=vocabulary.__getitem__), "[SEP]", "[PAD]", "[CLS]", "[MASK]"]
        file.write_text("\n".join(texts))
        tokenizer: PreTrainedTokenizer = kind(
            str(file), do_lower_case=False, clean_up_tokenization_spaces=False
        )
    tokenizer.add_tokens(["[SEP]", *SPECIAL], special_tokens=True)
    return tokenizer


def tik_token() -> tiktoken.Encoding:
    shifted = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = {shifted.pre_tokenize_str(chr(byte))[0][0]: byte for byte in range(128)}
    vocabulary = sorted(byte_level().get_vocab().items(), key=lambda item: item[1])
    merged = [bytes(alphabet[c] for c in text) for text, _ in vocabulary if all(c in alphabet for c in text)]
    pieces = dict.fromkeys(itertools.chain((bytes([byte]) for byte in range(256)), merged))
    ranks = {piece: i for i, piece in enumerate(pieces)}
    special = {text: len(ranks) + 3 + i for i, text in enumerate(SPECIAL)}  # leaves three ids unused
    return tiktoken.Encoding(
        "small", pat_str=r"\s?\w+|\s+|[^\w\s]+", mergeable_ranks=ranks, special_tokens=special
    )


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]", *SPECIAL], show_progress=False)
    tokenizer.train_from_iterator([*TEXT, "\n\n"], trainer)
    return tokenizer


def word_end() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["[UNK]", *SPECIAL], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


KINDS: dict[str, Callable[[], object]] = {
    "byte-level": byte_level,
    "sentencepiece": sentence_piece,
    "metaspace": metaspace,
    "wordpiece": word_piece,
    "wordpiece-slow": slow_word_piece,
    "tiktoken": tik_token,
    "word-end": word_end,
    "word-level": word_level,
}


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, object]:
    return {name: build() for name, build in KINDS.items()}


@pytest.fixture(scope="session")
def tokenizer(kind: str, tokenizers: dict[str, object]) -> object:
    return tokenizers[kind]


@pytest.fixture(scope="session")
def encode() -> Callable[[object, str], list[int]]:
    """Encode a text with a tokenizer of any kind, adding nothing."""

    def encode(tokenizer: Any, text: str) -> list[int]:
        if hasattr(tokenizer, "encode_ordinary"):
            return tokenizer.encode_ordinary(text)
        options = {"add_special_tokens": False} if hasattr(tokenizer, "get_vocab") else {}
        ids = tokenizer.encode(text, **options)
        return getattr(ids, "ids", ids)

    return encode


THINK = Delimiters(("<think>",), ("</think>",))
PIECES = [b" so", b" wait", b"Wait", b"er", b" a", b"wait", b",", b" hmm.", b"\n\n", b" hold", b" on"]


class Words:
    """A vocabulary written by hand: text pieces, and the two delimiters as special tokens."""

    def __init__(self) -> None:
        private = {"<think>": 257, "</think>": 258}
        pieces = [*PIECES, (257,), (258,)]
        self.surfaces = Surfaces.of(pieces, private)
        cues = CueSet(("wait", "hmm", "hold on"), paragraph=True)
        self.watch = Watch(compile_thinking(THINK, self.surfaces), compile_cues(cues, self.surfaces))
        self.open, self.close = len(PIECES), len(PIECES) + 1

    def ids(self, *texts: str) -> list[int]:
        special = {"<think>": self.open, "</think>": self.close}
        return [special[text] if text in special else PIECES.index(text.encode()) for text in texts]


@pytest.fixture(scope="session")
def words() -> Words:
    return Words()
