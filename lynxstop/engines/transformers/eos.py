"""Which tokens end a sequence."""

from __future__ import annotations

from typing import Any


def end_tokens(model: Any, tokenizer: Any = None) -> frozenset[int]:
    """Ids that end a sequence, by the model's generation settings and by its tokenizer."""
    found: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else () if ids is None else (ids,))
    return frozenset(found)
