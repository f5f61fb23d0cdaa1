"""The text of each token as symbols: bytes, or one private symbol for a token that is not text.

A symbol is an int. 0..255 are bytes; 256 (`INERT`) is a token without a readable text;
from 257 on, every special token has a symbol of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.errors import TokenizerError

INERT = 256
"""Symbol of a token id without a text: a hole in the vocabulary, an empty piece, a padding embedding row."""

Spell = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Surfaces:
    """The symbols of all tokens of a vocabulary, in one flat array.

    Parameters
    ----------
    flat : int32 array of shape (symbols,)
        The symbols of all tokens, one token after the other; every token has at least one.
    starts : int64 array of shape (tokens + 1,)
        Where each token begins in `flat`.
    private : mapping of str to int
        The private symbol (>= 257) of each special token's text.
    """

    flat: NDArray[np.int32]
    starts: NDArray[np.int64]
    private: Mapping[str, int]

    @classmethod
    def of(cls, tokens: Iterable[Iterable[int]], private: Mapping[str, int]) -> Surfaces:
        """Lay out one iterable of symbols per token id; an empty one becomes `INERT`."""
        rows = [tuple(token) or (INERT,) for token in tokens]
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        flat = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(starts[-1]))
        return cls(flat, starts, dict(private))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, token: int) -> tuple[int, ...]:
        """Symbols of a token; ids outside the vocabulary are inert."""
        if not 0 <= token < len(self):
            return (INERT,)
        return tuple(self.flat[self.starts[token] : self.starts[token + 1]].tolist())

    @property
    def symbols(self) -> int:
        """Number of distinct symbols: bytes, `INERT` and the private ones."""
        return INERT + 1 + len(self.private)


def token_surfaces(tokenizer: Any) -> Surfaces:
    """Return the bytes, or the private symbol, of every token of a tokenizer.

    Parameters
    ----------
    tokenizer : object
        A tokenizer of transformers (fast or slow), `tokenizers.Tokenizer`, `tiktoken.Encoding` or
        `sentencepiece.SentencePieceProcessor`; recognised by their methods, without importing any of them.

    Raises
    ------
    TokenizerError
        When it is none of these.
    """
    if hasattr(tokenizer, "decode_single_token_bytes"):
        return _tiktoken(tokenizer)
    if hasattr(tokenizer, "id_to_piece") and hasattr(tokenizer, "is_control"):
        return _sentencepiece(tokenizer)
    if hasattr(tokenizer, "get_vocab"):
        return _vocabulary(tokenizer)
    raise TokenizerError(
        f"Cannot read the vocabulary of a {type(tokenizer).__name__}.",
        hint="Pass a tokenizer of transformers, tokenizers, tiktoken or sentencepiece.",
    )


def added_tokens(tokenizer: Any) -> dict[int, str]:
    """Texts, by id, of the tokens that are matched as a whole, never as bytes: special tokens and markup."""
    if hasattr(tokenizer, "decode_single_token_bytes"):
        return {tokenizer.encode_single_token(text): text for text in sorted(tokenizer.special_tokens_set)}
    if hasattr(tokenizer, "id_to_piece"):
        ids = range(tokenizer.get_piece_size())
        return {
            i: tokenizer.id_to_piece(i) for i in ids if tokenizer.is_control(i) or tokenizer.is_unknown(i)
        }
    return {i: text for i, (text, special) in _declared(tokenizer).items() if special or not _plain(text)}


def _declared(tokenizer: Any) -> dict[int, tuple[str, bool]]:
    if hasattr(tokenizer, "get_added_tokens_decoder"):
        tokens = tokenizer.get_added_tokens_decoder()
    else:
        tokens = getattr(tokenizer, "added_tokens_decoder", None)
    if not isinstance(tokens, Mapping):
        raise TokenizerError(
            f"A {type(tokenizer).__name__} does not say which of its tokens are special.",
            hint="Load it in the format of transformers: mistral_format=False for `from_pretrained`.",
        )
    return {i: (token.content, token.special) for i, token in tokens.items()}


def _plain(text: str) -> bool:
    """Whether an added token is ordinary text: words and runs of white space that some vocabularies add."""
    return all(char.isalnum() or char.isspace() or char in "_▁" for char in text)


def _surfaces(spelled: dict[int, bytes], added: dict[int, str]) -> Surfaces:
    private = {text: INERT + 1 + i for i, text in enumerate(sorted(set(added.values())))}
    size = max(chain(spelled, added), default=-1) + 1
    rows: list[Iterable[int]] = [spelled.get(i, b"") for i in range(size)]
    for i, text in added.items():
        rows[i] = (private[text],)
    return Surfaces.of(rows, private)


def _tiktoken(encoding: Any) -> Surfaces:
    added = added_tokens(encoding)
    spelled = {}
    for i in range(encoding.n_vocab):
        try:
            spelled[i] = encoding.decode_single_token_bytes(i)
        except KeyError:
            continue
    return _surfaces(spelled, added)


def _sentencepiece(processor: Any) -> Surfaces:
    added = added_tokens(processor)
    spelled = {i: _metaspace(processor.id_to_piece(i)) for i in range(processor.get_piece_size())}
    return _surfaces(spelled, added)


def _vocabulary(tokenizer: Any) -> Surfaces:
    declared = _declared(tokenizer)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    spell = _speller(tokenizer, vocabulary)
    spelled = {i: spell(text) for text, i in vocabulary.items() if i not in declared}
    spelled |= {i: text.replace("▁", " ").encode() for i, (text, _) in declared.items()}
    return _surfaces(spelled, added_tokens(tokenizer))


def _speller(tokenizer: Any, vocabulary: Mapping[str, int]) -> Spell:
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "get_added_tokens_decoder"):
        return _declared_speller(backend.decoder)
    if hasattr(tokenizer, "byte_decoder"):
        return _byte_level
    if any(text.startswith("▁") for text in vocabulary):
        return _metaspace
    if any(text.startswith("##") for text in vocabulary):
        return _word_piece("##")
    return _word_level


def _declared_speller(decoder: Any) -> Spell:
    if decoder is None:
        return _word_level
    outer = json.loads(decoder.__getstate__())
    parts = {part["type"]: part for part in outer.get("decoders", [outer])}
    if "ByteLevel" in parts:
        return _byte_level
    if "WordPiece" in parts:
        return _word_piece(parts["WordPiece"]["prefix"])
    if "BPEDecoder" in parts:
        return _word_end(parts["BPEDecoder"]["suffix"])
    return _metaspace


def _word_level(text: str) -> bytes:
    return b" " + text.encode()


def _word_piece(prefix: str) -> Spell:
    def spell(text: str) -> bytes:
        return text[len(prefix) :].encode() if text.startswith(prefix) else b" " + text.encode()

    return spell


def _word_end(suffix: str) -> Spell:
    def spell(text: str) -> bytes:
        return (text.removesuffix(suffix) + " " if text.endswith(suffix) else text).encode()

    return spell


_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _metaspace(text: str) -> bytes:
    byte = _BYTE_PIECE.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()


def _byte_alphabet() -> dict[int, int]:
    """Code point -> byte of byte-level BPE (GPT-2): printable bytes are themselves, the others shifted up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: byte for byte in printable} | {256 + i: byte for i, byte in enumerate(shifted)}


_BYTES = _byte_alphabet()


def _byte_level(text: str) -> bytes:
    try:
        return bytes([_BYTES[ord(char)] for char in text])
    except KeyError:
        return text.encode()
