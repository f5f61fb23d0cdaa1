"""Options of the commands that read problems."""

from __future__ import annotations

from typing import Annotated

import typer

Problems = Annotated[
    str,
    typer.Argument(
        help="Problems: JSONL, CSV or Parquet with id, prompt and, if known, answer; or "
        "hf://NAME[@REVISION][:CONFIG]/SPLIT."
    ),
]
IdColumn = Annotated[str, typer.Option(help="Column that holds the id.")]
PromptColumn = Annotated[str, typer.Option(help="Column that holds the prompt.")]
AnswerColumn = Annotated[str, typer.Option(help="Column that holds the gold answer.")]


def columns(id_column: str, prompt_column: str, answer_column: str) -> dict[str, str]:
    """Return the mapping that `lynxstop.recordings.problems.load_problems` takes."""
    return {"id": id_column, "prompt": prompt_column, "answer": answer_column}
