"""Options of the commands that read problems."""

from __future__ import annotations

from typing import Annotated

import typer

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


def columns(id_column: str | None, prompt_column: str | None, answer_column: str | None) -> dict[str, str]:
    """Return the mapping that `lynxstop.recordings.problems.load_problems` takes."""
    named = {"id": id_column, "prompt": prompt_column, "answer": answer_column}
    return {own: column for own, column in named.items() if column is not None}
