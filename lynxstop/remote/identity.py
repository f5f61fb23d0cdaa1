"""Which model a server serves, as far as its answers show."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.errors import ModelError
from lynxstop.remote.continuation_check import sample_answer
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.server import Server

_TOKENS = 8


async def identify(server: Server, dialect: Dialect, model: str) -> Fingerprint:
    """Fingerprint a served model by its greedy answer to one fixed question.

    `config` covers the kind of server and the model's name, `template` and `tokenizer` the tokens of the
    rendered question (or their number, where the server shows no more), `weights` the first tokens of the
    answer. A change of the weights that does not change these tokens is not noticed.

    Raises
    ------
    ModelError
        When the server has no such model, or shows no tokens.
    UpstreamError
        When the server fails.
    """
    return (await identified(server, dialect, model))[0]


async def identified(server: Server, dialect: Dialect, model: str) -> tuple[Fingerprint, str | None]:
    """Fingerprint a model as `identify` does; return it with what the server calls its configuration."""
    shown = await sample_answer(server, dialect, model, _TOKENS)
    if not shown.tokens:
        raise ModelError(
            f"The server shows no tokens of {model}.",
            hint="See what it offers with `lynxstop doctor`; log-probabilities are needed.",
        )
    opening = shown.opening
    prompt = opening.prompt_text if opening.prompt_ids is None else opening.prompt_ids
    rendered = _digest(shown.usage.get("prompt_tokens") if prompt is None else prompt)
    fingerprint = Fingerprint(
        config=_digest([dialect.name, model]),
        weights=_digest([token.text.hex() for token in shown.tokens]),
        tokenizer=rendered,
        template=rendered,
    )
    return fingerprint, shown.system_fingerprint


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
