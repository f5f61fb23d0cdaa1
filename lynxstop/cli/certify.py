"""`lynxstop certify`: from a model and problems to a certified bundle."""

from __future__ import annotations

import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lynxstop.calibration.losses import loss_names
from lynxstop.cli import _output
from lynxstop.cli._options import (
    AnswerColumn,
    BatchSize,
    Device,
    DraftedRecipe,
    Dtype,
    EngineArguments,
    Grader,
    IdColumn,
    Json,
    Limit,
    Problems,
    PromptColumn,
    Seed,
    arguments_of,
    columns,
)
from lynxstop.cli._risk import Confidence
from lynxstop.cli._risk import risk as read_risk
from lynxstop.cli._signals import ended_by_sigterm
from lynxstop.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress

    from lynxstop.workflows.certify import CertifiedModel
    from lynxstop.workflows.certify_plan import Estimate

LONG = 3600.0
"""Seconds of recording that are begun without being asked for."""


def certify(
    model: Annotated[str, typer.Argument(help="Model folder, hub name, or the server's name for it.")],
    problems: Problems,
    out: Annotated[
        Path, typer.Option(help="Folder for everything; an interrupted run goes on there.")
    ] = Path("certified"),
    risk: Annotated[
        list[float] | None,
        typer.Option(parser=read_risk, help="Level to certify; several may be given. By default 5% and 10%."),
    ] = None,
    confidence: Confidence = 0.95,
    loss: Annotated[
        str,
        typer.Option(help=f"{', '.join(loss_names(selective=False))}; disagree needs no gold answers."),
    ] = "disagree",
    recipe: DraftedRecipe = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="Certify the model of this server; its key is read from OPENAI_API_KEY."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Engine that generates: transformers, vllm, openai.")
    ] = None,
    limit: Limit = None,
    id_column: IdColumn = None,
    prompt_column: PromptColumn = None,
    answer_column: AnswerColumn = None,
    grader: Grader = "math",
    seed: Seed = 0,
    batch_size: BatchSize = None,
    device: Device = None,
    dtype: Dtype = None,
    argument: EngineArguments = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Begin what takes hours without asking.")] = False,
    json: Json = False,
) -> None:
    """Go from a model and a file of problems to a certified bundle, a report, and the command that serves it.

    Problems are split by prompt: 40% train a probe, 45% certify its thresholds, 15% test the result. Each
    step is a command of its own (`recipes`, `plan`, `collect`, `train`, `calibrate`, `evaluate`) and leaves
    its files in the folder. Run it again to go on after an interruption, or with more problems.

    **Examples**

    - `lynxstop certify data/reasoner problems.jsonl`

    - `lynxstop certify MODEL problems.jsonl --risk 2% --risk 5% --out mine --yes --json`

    - `lynxstop certify NAME prompts.jsonl --base-url http://127.0.0.1:8000`

    - `lynxstop certify MODEL problems.jsonl --engine vllm --argument max_model_len=40960`
    """
    from lynxstop.artifacts import atomic
    from lynxstop.artifacts.recipes import find_recipe
    from lynxstop.cli._checks import check_folder
    from lynxstop.collect.options import CollectOptions
    from lynxstop.extras import need
    from lynxstop.recordings.problems import load_problems
    from lynxstop.report.certified import certified_report
    from lynxstop.workflows.certify import RISKS, CertifyOptions
    from lynxstop.workflows.certify import certify as run

    check_folder(out, "--out")
    need("sklearn", "calibrate")
    need("matplotlib", "report")
    options = CertifyOptions(
        risks=risk or RISKS,
        confidence=confidence,
        loss=loss,
        collect=CollectOptions(
            engine=engine or ("transformers" if base_url is None else "openai"),
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            arguments=arguments_of(argument or []) | ({} if base_url is None else {"base_url": base_url}),
            seed=seed,
            grader=grader,
        ),
    )
    settings = None if recipe is None else find_recipe(recipe)
    asked = load_problems(problems, columns(id_column, prompt_column, answer_column))[:limit]
    # Engines print to stdout.
    with ended_by_sigterm(), redirect_stdout(sys.stderr), ExitStack() as stack:
        made = run(
            model,
            asked,
            out,
            recipe=settings,
            options=options,
            tell=tell,
            ask=lambda left: ask(left, yes),
            console=_output.console,
            progress=TrainingBar(stack),
        )
    page = out / "report.html"
    atomic.write_text(page, certified_report(made))
    if json:
        _output.emit({**made.report(), "report": str(page)})
    else:
        _show(made, page)


class TrainingBar:
    """The progress of training; it is drawn from its first call, when that of recording is over.

    A terminal shows one live display at a time.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._stack.enter_context(_output.progress())
            self._task = self._bar.add_task("training", total=total)
        self._bar.update(self._task, completed=done, total=total)


def tell(sentence: str) -> None:
    """Print a sentence."""
    _output.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def ask(left: Estimate, yes: bool) -> None:
    """Say what is left, and let people decide about hours.

    Raises
    ------
    ConfigError
        When it takes hours and nobody said yes.
    """
    tell(left.sentence())
    if left.seconds <= LONG or yes:
        return
    if sys.stdin.isatty() and typer.confirm("Go on?", err=True):
        return
    raise ConfigError(
        "Recording the rest takes hours.",
        hint="Run it again with --yes, with --limit for fewer problems, or with a larger --batch-size.",
    )


def _show(made: CertifiedModel, page: Path) -> None:
    from lynxstop.cli._levels import show
    from lynxstop.cli.calibrate import tell_tried

    show(made.calibration)
    tell_tried(made.tried, 1, made.bundle.path.parent / "recorded" / "calibration")
    rows: list[dict[str, Any]] = made.held_out
    if rows:
        from lynxstop.cli.evaluate import show_levels

        show_levels(rows, f"{rows[0]['n_problems']} held-out problems")
    if made.more is not None:
        tell(f"Of the problems in the file, some certify: about {made.more} more there may be enough.")
    tell(f"Bundle: {made.bundle.path}. Report: {page}")
    if made.serve is None:
        tell("No level exits, so there is nothing to serve: give more problems, or a higher --risk.")
    else:
        tell(f"Serve it: {made.serve}")
