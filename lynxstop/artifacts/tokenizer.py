"""Tokenizers as lynxstop reads them: texts to tokens and back, special tokens included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lynxstop.extras import need


def load_tokenizer(source: str | Path, extra: str = "transformers", **options: Any) -> Any:
    """Load the tokenizer of a model, or of a name on the hub, in the format of transformers.

    For Mistral's models transformers and vLLM prefer mistral-common where it is installed, which writes
    special tokens in a text out of pieces and does not say which tokens are special.

    Parameters
    ----------
    source : str or Path
    extra : str
        The extra of lynxstop that brings transformers.
    **options
        Of transformers' `from_pretrained`.
    """
    auto = need("transformers", extra).AutoTokenizer
    return auto.from_pretrained(source, mistral_format=False, **options)
