"""From a server's address and a recipe to an engine that records."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lynxstop.artifacts.fingerprint import Fingerprint
from lynxstop.artifacts.recipe import Recipe
from lynxstop.artifacts.setup import WatchedSetup
from lynxstop.core.policy import ExitSide
from lynxstop.core.stream import StreamWatch
from lynxstop.core.thinking import FAMILIES, Delimiters
from lynxstop.engines.openai.engine import CONCURRENT, OpenAIEngine
from lynxstop.engines.openai.tokenizer import StreamTokenizer
from lynxstop.errors import ConfigError, UpstreamError
from lynxstop.remote.continuation_check import CheckedContinuation, check_continuation
from lynxstop.remote.dialects.table import choose
from lynxstop.remote.http.config import ConnectionConfig
from lynxstop.remote.http.connection import Connection
from lynxstop.remote.http.upstream import Upstream
from lynxstop.remote.identity import identify
from lynxstop.remote.server import listed_models
from lynxstop.remote.stream_config import StreamConfig

KEY = "OPENAI_API_KEY"
"""Environment variable with the key that the server wants."""


@dataclass(frozen=True, slots=True)
class LoadedServer:
    """An engine and what it was made from."""

    engine: OpenAIEngine
    tokenizer: StreamTokenizer
    setup: WatchedSetup
    fingerprint: Fingerprint
    dtype: str = "server"

    def close(self) -> None:
        """End the engine."""
        self.engine.close()


def load_openai(
    model: str,
    recipe: Recipe,
    *,
    base_url: str,
    dialect: str = "auto",
    concurrent: int = CONCURRENT,
    seeded: bool = False,
    extra: dict[str, Any] | None = None,
) -> LoadedServer:
    """Reach a server and prepare to record its model.

    Parameters
    ----------
    model : str
        Name of the served model.
    recipe : Recipe
    base_url : str
        Address of the server, with or without ``/v1``.
    dialect : str
        Kind of server; "auto" asks it.
    concurrent : int
        Requests at a time.
    seeded : bool
        Send a seed of its own with every request.
    extra : dict, optional
        Further parameters of every request.

    Raises
    ------
    UpstreamError
        When the server cannot be reached or fails.
    ModelError
        When it does not serve the model, or shows no log-probabilities.
    ConfigError
        When the recipe asks for what a stream cannot give, or the dialect or the address is not valid.
    """
    delimiters = (
        Delimiters(recipe.thinking.open, recipe.thinking.close) if recipe.thinking.open else FAMILIES["think"]
    )
    exit_text = recipe.exit.text.replace("{close}", delimiters.close[0])
    cut: ExitSide = recipe.exit.cut or "before"
    watch = StreamWatch(recipe.cues.cue_set, delimiters)
    policy = recipe.policy((watch.vocabulary.number(exit_text.encode()),))
    upstream, server = _reach(base_url)
    runner = asyncio.Runner()

    async def learn() -> tuple[CheckedContinuation, Fingerprint, tuple[int, ...]]:
        spoken = await choose(dialect, server)
        checked = await check_continuation(
            server, spoken, model, exit_text=exit_text, open=delimiters.open[0]
        )
        fingerprint = await identify(server, spoken, model)
        return checked, fingerprint, await checked.dialect.tokenize(server, model, exit_text)

    try:
        checked, fingerprint, exit_ids = runner.run(learn())
    except BaseException as error:
        runner.run(upstream.aclose())
        runner.close()
        if isinstance(error, UpstreamError):
            raise _named(error, base_url) from error
        raise
    config = StreamConfig(
        watch,
        policy,
        exit_text,
        delimiters.close,
        cut == "before",
        exit_ids,
        checked.opened,
        delimiters.open,
        checked.exit_tokens,
    )
    tokenizer = StreamTokenizer(watch.vocabulary)
    engine = OpenAIEngine(
        server,
        checked.dialect,
        config,
        model,
        tokenizer,
        concurrent=concurrent,
        seeded=seeded,
        extra=extra,
        runner=runner,
        closing=upstream.aclose,
    )
    return LoadedServer(
        engine, tokenizer, WatchedSetup(watch.cue_set, delimiters, exit_text, cut), fingerprint
    )


def served_length(model: str, base_url: str) -> int | None:
    """Ask a server for the context length of a model, in tokens; None when it does not say.

    Raises
    ------
    UpstreamError
        When the server cannot be reached or fails.
    """
    upstream, server = _reach(base_url)

    async def ask() -> Any:
        try:
            return await server.call("/v1/models")
        finally:
            await upstream.aclose()

    try:
        listed = asyncio.run(ask())
    except UpstreamError as error:
        raise _named(error, base_url) from error
    entry = listed_models(listed).get(model, {})
    # of vLLM and SGLang, else of llama.cpp
    length = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx_train")
    return length if isinstance(length, int) else None


def _named(error: UpstreamError, base_url: str) -> UpstreamError:
    """Say which server it is, and what may help."""
    hint = error.hint
    if error.status_code in (401, 403):
        hint = f"Set the environment variable {KEY} to the server's key."
    elif error.status_code == 404:
        hint = "Check the address: it is the server's own, with or without /v1, and without more."
    elif error.code == "upstream_unreachable":
        hint = "Start the server, or check its address and port."
    return UpstreamError(
        f"{base_url} cannot be asked: {error.message}", code=error.code, status=error.status_code, hint=hint
    )


def _reach(base_url: str) -> tuple[Upstream, Connection]:
    try:
        config = ConnectionConfig(url=base_url, api_key=os.environ.get(KEY))  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(
            f"{base_url!r} is not the address of a server.", hint="Give one like http://127.0.0.1:8000."
        ) from error
    upstream = Upstream(config)
    return upstream, Connection(upstream)
