"""From an engine's name and a model to what a collection needs: one table, each engine loaded when named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lynxstop.artifacts.recipe import Recipe
from lynxstop.artifacts.setup import with_budget
from lynxstop.collect.source import Source
from lynxstop.engines.context import check_recipe
from lynxstop.errors import ConfigError, ModelError
from lynxstop.extras import need

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How an engine is to run; nothing here shapes the data.

    Parameters
    ----------
    device, dtype : str, optional
        As PyTorch names them; the engine's own choice when None.
    batch_size : int, optional
        Requests that run at once.
    arguments : mapping
        Further arguments of the engine, by its own names.
    """

    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


Loader = Callable[[str, Recipe, SourceOptions], Source]


def load_source(engine: str, model: str, recipe: Recipe, options: SourceOptions) -> Source:
    """Load a model into an engine, ready to record full traces.

    Its policy holds a budget: without one in the recipe, thinking may take what `max_tokens` leaves besides
    an answer, so that a trace that is cut short answers too.

    Parameters
    ----------
    engine : str
        A name in `ENGINES`.
    model : str
        A model folder, or a name that the engine knows.
    recipe : Recipe
        How the model is watched, stopped and sampled.
    options : SourceOptions

    Raises
    ------
    ConfigError
        When there is no such engine, it has no such option, or `max_tokens` leaves no room for thinking.
    ModelError
        When the model cannot be loaded, or the engine takes folders only and this is not one.
    """
    if engine not in ENGINES:
        raise ConfigError(f"There is no engine {engine!r}.", hint=f"Engines: {', '.join(ENGINES)}.")
    return ENGINES[engine](model, recipe, options)


def folder_of(model: str) -> Path:
    """Return the folder of a model; one that has a hub name is downloaded, or found in the hub's cache.

    Raises
    ------
    ModelError
        When there is none, or the hub cannot be reached or does not have it.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(model):
        raise ModelError(f"There is no model folder {model}.", hint="Download the model to a folder.")
    library = need("huggingface_hub", "transformers")
    try:
        return Path(library.snapshot_download(model, allow_patterns=_FILES))
    except Exception as error:  # its HTTP clients raise errors of their own, which differ by version
        first = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"There is no model folder {model}, and the hub gave no model of this name: {first}",
            hint="Download the model to a folder, or check the name and the connection.",
        ) from error


def _transformers(model: str, recipe: Recipe, options: SourceOptions) -> Source:
    from lynxstop.engines.transformers.loading import load_engine

    _no_arguments("transformers", options)
    loaded = load_engine(
        folder_of(model), recipe, device=options.device, dtype=options.dtype, batch_size=options.batch_size
    )
    loaded.engine.policy = with_budget(loaded.engine.policy, recipe)
    check_recipe(loaded.engine.policy, recipe, loaded.engine.context)
    return loaded


def _vllm(model: str, recipe: Recipe, options: SourceOptions) -> Source:
    from lynxstop.engines.vllm.loading import load_engine

    if options.device is not None:
        raise ConfigError("vLLM finds its device by itself.", hint="Leave the device out.")
    return load_engine(
        model,
        recipe,
        dtype=options.dtype,
        batch_size=options.batch_size,
        arguments=options.arguments,
    )


def _no_arguments(engine: str, options: SourceOptions) -> None:
    if options.arguments:
        raise ConfigError(
            f"The engine {engine} takes no further arguments: {', '.join(options.arguments)}.",
            hint="Leave them out, or name the engine that they are for: --engine.",
        )


def _openai(model: str, recipe: Recipe, options: SourceOptions) -> Source:
    from lynxstop.engines.openai.loading import load_openai

    arguments = dict(options.arguments)
    if "base_url" not in arguments:
        raise ConfigError("The engine openai needs the server's address.", hint="Give --base-url URL.")
    unknown = sorted(set(arguments) - {"base_url", "dialect", "seeded", "extra"})
    if unknown:
        raise ConfigError(
            f"The engine openai has no argument {unknown[0]!r}.",
            hint="It has: base_url, dialect, seeded, extra.",
        )
    if options.batch_size is not None:
        arguments["concurrent"] = options.batch_size
    loaded = load_openai(model, recipe, **arguments)
    loaded.engine.policy = with_budget(loaded.engine.policy, recipe)
    return loaded


ENGINES: dict[str, Loader] = {"transformers": _transformers, "vllm": _vllm, "openai": _openai}
"""Loaders by the name that `lynxstop collect --engine` takes."""
