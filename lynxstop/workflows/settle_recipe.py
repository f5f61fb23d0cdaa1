"""The recipe of a certification: that of an earlier call, a shipped one, or a draft, written down."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lynxstop.artifacts import atomic
from lynxstop.artifacts.recipe import Recipe
from lynxstop.artifacts.recipes import text_of
from lynxstop.errors import ConfigError
from lynxstop.workflows.draft_recipe import draft_for_server, draft_recipe, toml


def settle_recipe(
    folder: Path,
    name: str,
    model: str | Path,
    given: Recipe | None,
    tell: Callable[[str], None],
    base_url: str | None = None,
) -> Recipe:
    """Take the recipe that is given, else that of an earlier call, else a first one; write it down."""
    path = folder / "recipe.toml"
    if given is None and path.is_file():
        tell(f"Recipe: {path}.")
        return Recipe.load(path)
    if given is not None:
        text = toml(given.model_dump(mode="json"))
    else:
        text, source, unknown = _first_recipe(name, Path(model), base_url)
        tell(f"Recipe: {source}; written to {path}.")
        for line in unknown:
            tell(f"Look at this: {line}")
    atomic.write_text(path, text)
    return Recipe.load(path)


def _first_recipe(name: str, model: Path, base_url: str | None) -> tuple[str, str, list[str]]:
    """Return the text of a recipe for a model, where it comes from, and what is a guess."""
    for known in (name, Path(name).name):
        with suppress(ConfigError):
            return text_of(known), f"the shipped one for {known}", []
    if base_url is None:
        draft, source = draft_recipe(model), f"drafted from the files in {model}"
    else:
        # Brings the HTTP client, which a model in a folder does not need.
        from lynxstop.engines.openai.loading import served_length

        draft, source = draft_for_server(name, served_length(name, base_url)), f"drafted for {base_url}"
    return draft.as_toml(), source, draft.unknown
