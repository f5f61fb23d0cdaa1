"""`lynxstop recipes`: the shipped recipes for public models."""

from __future__ import annotations

from typing import Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A shipped recipe, a model's name, or a file; all when left out.")
    ] = None,
    json: Json = False,
) -> None:
    """List the shipped recipes, or print one as TOML for `collect --recipe`.

    **Examples**

    - `lynxstop recipes`

    - `lynxstop recipes Qwen/Qwen3-8B > recipe.toml`
    """
    from lynxstop.artifacts.recipe import Recipe
    from lynxstop.artifacts.recipes import find_recipe, shipped_recipes, text_of

    if name is not None:
        if json:
            _output.emit(find_recipe(name).model_dump(mode="json"))
        else:
            typer.echo(text_of(name), nl=False)
        return
    found = {stem: Recipe.load(path) for stem, path in shipped_recipes().items()}
    if json:
        _output.emit({"recipes": {stem: recipe.model_dump(mode="json") for stem, recipe in found.items()}})
        return
    rows = _output.table("Shipped recipes", "name", "layers", "sampling", "tokenizer checked")
    for stem, recipe in found.items():
        sampling = recipe.sampling
        rows.add_row(
            stem,
            ", ".join(map(str, recipe.probe.layers)),
            f"{sampling.temperature:g} / {sampling.top_p:g} / {sampling.top_k or 'all'}",
            "yes" if recipe.source.checked else "no",
        )
    _output.console.print(rows)
    _output.console.print("Sampling: temperature / top_p / top_k, as the makers recommend.", style="dim")
