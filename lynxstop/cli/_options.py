"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from lynxstop.cli._risk import risk_or_off
from lynxstop.errors import ConfigError

Problems = Annotated[
    str,
    typer.Argument(
        help="Problems: JSON, CSV or Parquet with a prompt and, if known, an answer; or "
        "hf://NAME[@REVISION][:CONFIG]/SPLIT."
    ),
]
IdColumn = Annotated[
    str | None, typer.Option(help="Column of the id; by default id, else a digest of the prompt.")
]
PromptColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the prompt; by default prompt, question, problem, input, messages or the like."
    ),
]
AnswerColumn = Annotated[
    str | None,
    typer.Option(help="Column of the gold answer; by default answer, gold, target, solution or the like."),
]
Grader = Annotated[
    str,
    typer.Option(help="How answers are compared: math, choice, yes-no, json, text, or module:function."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Take only the first problems.")]
DraftedRecipe = Annotated[
    str | None, typer.Option(help="Recipe (TOML), or the name of a shipped one; by default one is drafted.")
]
Target = Annotated[
    str, typer.Option(help="Foresee that the exit answer `agrees` with the full one, or is `right`.")
]
Layers = Annotated[
    str | None,
    typer.Option(help="Recorded layers to use, such as `2,4`; by default chosen by cross-validation."),
]
ServedRisk = Annotated[
    str | None,
    typer.Option(
        parser=risk_or_off,
        help="Certified level of requests that name none, such as 5%, or `off`; the bundle's default.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of all sampling.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Rows generated at once.")]
Device = Annotated[str | None, typer.Option(help="Device, as PyTorch names it.")]
Dtype = Annotated[str | None, typer.Option(help="Data type, as PyTorch names it.")]
EngineArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--argument",
        help="NAME=VALUE of the engine's own arguments (vllm), values as in JSON; may be repeated.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def columns(id_column: str | None, prompt_column: str | None, answer_column: str | None) -> dict[str, str]:
    """Return the mapping that `lynxstop.recordings.problems.load_problems` takes."""
    named = {"id": id_column, "prompt": prompt_column, "answer": answer_column}
    return {own: column for own, column in named.items() if column is not None}


def arguments_of(given: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE pairs; a value that is not JSON is a text."""
    import json

    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise ConfigError(f"An argument of the engine is NAME=VALUE, not {pair!r}.")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
