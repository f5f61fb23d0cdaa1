"""Which model a server serves, as far as it can be told from outside."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.errors import ModelError
from lynxstop.remote.dialects.base import Dialect
from lynxstop.remote.server import Server
from lynxstop.remote.settling import QUESTION
from lynxstop.remote.stream import chat_stream

_TOKENS = 8


async def identify(server: Server, dialect: Dialect, model: str) -> Fingerprint:
    """Fingerprint a served model by what it does: it is asked one fixed question, greedily.

    `config` covers the kind of server and the model's name, `template` and `tokenizer` the tokens of the
    rendered question (their number, where the server tells no more), `weights` the first tokens of the
    answer. A change of the weights that leaves these tokens alone goes unseen.

    Raises
    ------
    ModelError
        When the server has no such model, or shows no tokens.
    UpstreamError
        When the server fails.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": _TOKENS,
    }
    opening = await dialect.opening(server, body)
    written: list[str] = []
    usage: dict[str, Any] = {}
    async with chat_stream(server, dialect, opening) as deltas:
        async for _, delta in deltas:
            written += [token.text.hex() for token in delta.tokens]
            usage = delta.usage or usage
    if not written:
        raise ModelError(
            f"The server shows no tokens of {model}.",
            hint="See what it offers with `lynxstop doctor`; log-probabilities are needed.",
        )
    prompt = list(opening.prompt_ids) if opening.prompt_ids is not None else opening.prompt_text
    shown = usage.get("prompt_tokens") if prompt is None else prompt
    return Fingerprint(
        config=_digest([dialect.name, model]),
        weights=_digest(written),
        tokenizer=_digest(shown),
        template=_digest(shown),
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
