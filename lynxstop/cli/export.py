"""`lynxstop export`: recorded exits as serial groups, to train models that stop by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import IdColumn, Json, Problems, PromptColumn, columns


def export(
    model: Annotated[Path, typer.Argument(help="Model folder: its tokenizer writes the texts.")],
    data: Annotated[Path, typer.Argument(help="Recorded traces, from `lynxstop collect`.")],
    problems: Problems,
    out: Annotated[Path, typer.Argument(help="JSON lines to write.")],
    decay: Annotated[
        float, typer.Option(help="Reward of each further right exit, as a share of the one before.")
    ] = 0.5,
    id_column: IdColumn = None,
    prompt_column: PromptColumn = None,
    json: Json = False,
) -> None:
    """Write every recorded exit as a prompt, a completion and a decaying reward, grouped by trace.

    The reward is that of S-GRPO: 1 for the first right exit of a trace, `decay` times the one before for
    every further one, 0 for wrong ones. Prompts and completions are conversations as TRL reads them;
    `label` makes the file an unpaired preference data set.

    **Examples**

    - `lynxstop export MODEL recorded/train train.jsonl groups.jsonl`

    - `lynxstop export MODEL recorded/train train.jsonl groups.jsonl --decay 0.8 --json`
    """
    from lynxstop.artifacts import atomic
    from lynxstop.cli._checks import check_file
    from lynxstop.recordings.problems import load_problems
    from lynxstop.recordings.storage import Recording
    from lynxstop.workflows.draft_recipe import tokenizer_of
    from lynxstop_research.export import serial_groups, to_lines

    check_file(out, "the argument OUT")
    tokenizer = tokenizer_of(model)
    named = columns(id_column, prompt_column, None)
    prompts = {problem.id: problem.prompt for problem in load_problems(problems, named)}
    rows = serial_groups(Recording.open(data), prompts, tokenizer.decode, decay=decay)
    atomic.write_text(out, to_lines(rows))
    right = sum(row["label"] for row in rows)
    summary = {"out": str(out), "exits": len(rows), "right": right, "groups": len({r["group"] for r in rows})}
    if json:
        _output.emit(summary)
        return
    _output.console.print(
        f"{summary['exits']} exits of {summary['groups']} traces, {right} right, written to {out}."
    )
