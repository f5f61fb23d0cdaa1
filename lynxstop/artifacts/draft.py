"""A first recipe for a model that none is shipped for, from what its own files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lynxstop.artifacts.recipe import ProbeOptions, Recipe, SamplingOptions
from lynxstop.artifacts.recipes import find_recipe
from lynxstop.errors import ConfigError

_DEFAULTS = SamplingOptions()


def draft_recipe(model: str | Path, folder: Path | None = None) -> tuple[Recipe, str]:
    """Return a recipe for a model, and a sentence that says where it comes from.

    Parameters
    ----------
    model : str or Path
        A hub name that a shipped recipe is for, a folder of such a name, or any other folder: then sampling
        comes from its generation_config.json, the length from its context, and the layers from its depth.
        Delimiters are found when the tokenizer is loaded.
    folder : Path, optional
        Where the files of a hub name are.
    """
    for name in (str(model), Path(model).name):
        try:
            return find_recipe(name), f"the shipped recipe for {name}"
        except ConfigError:
            continue
    folder = folder or Path(model)
    config, generation = _json(folder / "config.json"), _json(folder / "generation_config.json")
    if not config:
        return Recipe(probe=ProbeOptions(layers=())), "the defaults"
    config = config.get("text_config", config)
    context = int(config.get("max_position_embeddings") or 2 * _DEFAULTS.max_tokens)
    sampling = SamplingOptions(
        temperature=generation.get("temperature", _DEFAULTS.temperature)
        if generation.get("do_sample", True)
        else 0.0,
        top_p=generation.get("top_p") or 1.0,
        top_k=generation.get("top_k") or 0,
        max_tokens=min(_DEFAULTS.max_tokens, context // 2),
        answer_tokens=min(_DEFAULTS.answer_tokens, context // 16),
    )
    depth = int(config.get("num_hidden_layers") or 1)
    layers = tuple(sorted({max(1, round(depth * part / 4)) for part in (1, 2, 3, 4)}))
    return Recipe(sampling=sampling, probe=ProbeOptions(layers=layers)), f"drafted from the files in {folder}"


def as_toml(recipe: Recipe) -> str:
    """Write a recipe as TOML; what is None is left out."""
    lines: list[str] = []
    for section, values in recipe.model_dump(mode="json").items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
        lines.append("")
    return "\n".join(lines)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
