"""`lynxstop recipe`: a recipe for a model that has none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json

if TYPE_CHECKING:
    from lynxstop.workflows.check_recipe import RecipeCheck


def recipe(
    model: Annotated[
        Path,
        typer.Argument(help="Folder of the model; its tokenizer files alone will do, except for --check."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the recipe to this file; else it is printed on stdout.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Try it on three prompts: thinking, cues and forced answers.")
    ] = False,
    check_tokens: Annotated[
        int, typer.Option(min=16, help="Tokens that the check generates for a prompt, at most.")
    ] = 512,
    device: Annotated[str | None, typer.Option(help="Device of the check, as PyTorch names it.")] = None,
    json: Json = False,
) -> None:
    """Write a recipe for a model from its tokenizer, chat template, generation settings and depth.

    What the files do not say is listed, and stands in the recipe as a comment.

    **Examples**

    - `lynxstop recipe MODEL --out recipe.toml`

    - `lynxstop recipe MODEL --check --out recipe.toml`

    - `lynxstop recipe MODEL --json`
    """
    from lynxstop.artifacts import atomic
    from lynxstop.cli._checks import check_file
    from lynxstop.workflows.check_recipe import check_recipe
    from lynxstop.workflows.draft_recipe import draft_recipe

    check_file(out, "--out")
    draft = draft_recipe(model)
    checked = check_recipe(model, draft.recipe, most=check_tokens, device=device) if check else None
    if out is not None:
        atomic.write_text(out, draft.as_toml())
    if json:
        found = {
            "recipe": draft.recipe.model_dump(mode="json"),
            "known": draft.known,
            "unknown": draft.unknown,
        }
        _output.emit(found | ({} if checked is None else {"check": checked.as_json()}))
        return
    if out is None:
        typer.echo(draft.as_toml(), nl=False)
    for line in draft.unknown:
        _output.console.print(f"Look at this: {line}", soft_wrap=True, markup=False)
    if checked is not None:
        _show(checked)
    if out is not None:
        _output.console.print(
            f"Written to {out}; next: lynxstop collect {model} PROBLEMS DATA --recipe {out}"
        )


def _show(checked: RecipeCheck) -> None:
    rows = _output.table("Three prompts", "prompt", "thinking tokens", "ended", "cues", "exits answered")
    for number, one in enumerate(checked.tried, start=1):
        answered = "-" if one.exits_answered is None else str(one.exits_answered)
        rows.add_row(
            str(number), str(one.thinking_tokens), "yes" if one.closed else "no", str(one.cues), answered
        )
    _output.console.print(rows)
    for line in checked.problems or ["The recipe works on these prompts."]:
        _output.console.print(line, style="yellow" if checked.problems else "", soft_wrap=True, markup=False)
