"""The shipped recipes for public models, by name."""

from __future__ import annotations

from pathlib import Path

from lynxstop import shipped
from lynxstop.artifacts.recipe import Recipe
from lynxstop.errors import ConfigError


def shipped_recipes() -> dict[str, Path]:
    """Files of the shipped recipes by name, in alphabetical order."""
    return {path.stem: path for path in sorted(shipped.RECIPES.glob("*.toml"))}


def find_recipe(name: str | Path) -> Recipe:
    """Read a recipe from a file, or a shipped one.

    Parameters
    ----------
    name : str or Path
        A file; or a shipped recipe's name, or the hub name of one of its models, in any case, with or without
        the owner.

    Raises
    ------
    ConfigError
        When there is neither, or the file is not a recipe.
    """
    return Recipe.load(_file(name))


def text_of(name: str | Path) -> str:
    """Return the text of a recipe, comments included; `name` and errors as for `find_recipe`."""
    return _file(name).read_text()


def _file(name: str | Path) -> Path:
    if Path(name).is_file() or Path(name).suffix == ".toml":
        return Path(name)
    wanted, known = str(name).lower(), shipped_recipes()
    if wanted in known:
        return known[wanted]
    for path in known.values():
        models = [model.lower() for model in Recipe.load(path).source.models]
        if wanted in models or wanted in [model.rpartition("/")[2] for model in models]:
            return path
    raise ConfigError(
        f"There is no recipe {str(name)!r}, neither a file nor a shipped one.",
        hint=f"Shipped: {', '.join(known)}.",
    )
