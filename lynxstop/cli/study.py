"""`lynxstop study`: everything about one model on one suite, on one page."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from lynxstop.calibration.losses import loss_names
from lynxstop.cli import _output
from lynxstop.cli._options import (
    Device,
    DraftedRecipe,
    Dtype,
    EngineArguments,
    Json,
    Limit,
    Seed,
    arguments_of,
)
from lynxstop.cli._risk import risk as read_risk
from lynxstop.cli._signals import ended_by_sigterm


def study(
    model: Annotated[str, typer.Argument(help="Model folder, or hub name.")],
    suite: Annotated[str, typer.Option(help="math, gsm8k, aime, gpqa, csqa, or a file of problems.")],
    out: Annotated[
        Path, typer.Option(help="Folder for everything; an interrupted study goes on there.")
    ] = Path("study"),
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            help="Suite or file that the certificate is carried to; may be repeated. By default the other "
            "suites, and none beside a file."
        ),
    ] = None,
    transfer_limit: Annotated[int, typer.Option(min=2, help="Problems of each of these.")] = 400,
    limit: Limit = None,
    risk: Annotated[
        list[float] | None,
        typer.Option(parser=read_risk, help="Level; may be repeated. By default 1%, 2%, 5% and 10%."),
    ] = None,
    loss: Annotated[str, typer.Option(help=f"{', '.join(loss_names(selective=False))}.")] = "disagree",
    recipe: DraftedRecipe = None,
    engine: Annotated[str, typer.Option(help="Engine that generates.")] = "transformers",
    also: Annotated[
        list[str] | None, typer.Option(help="Further engine to compare decisions with; may be repeated.")
    ] = None,
    argument: EngineArguments = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time, fixed.")] = 32,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Batch size to compare decisions with; may be repeated. By default 1."),
    ] = None,
    timed: Annotated[int, typer.Option(min=1, help="Requests for wall-clock and throughput.")] = 64,
    compared: Annotated[int, typer.Option(min=1, help="Requests whose decisions are compared.")] = 32,
    grader: Annotated[
        str, typer.Option(help="How answers of a file are compared; suites have a grader of their own.")
    ] = "math",
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Begin what takes hours without asking.")] = False,
    json: Json = False,
) -> None:
    """Study a model: certificates, all rules, transfer, speed and flips of decisions, on one page.

    It begins as `certify` does, and goes on with the recordings and the bundle of that. Run it again to go on
    after an interruption. A part that cannot be had is left out, and the page says why.

    **Examples**

    - `lynxstop study Qwen/Qwen3-8B --suite gsm8k --engine vllm --concurrency 64 --yes`

    - `lynxstop study data/reasoner --suite data/problems/calibration.jsonl --limit 600 --transfer
      data/problems/shift.jsonl`
    """
    from lynxstop.artifacts import atomic
    from lynxstop.artifacts.recipes import find_recipe
    from lynxstop.cli._checks import check_folder
    from lynxstop.cli.certify import TrainingBar, ask, tell
    from lynxstop.collect.options import CollectOptions
    from lynxstop.extras import need
    from lynxstop_research.study import RISKS, StudyOptions
    from lynxstop_research.study import study as run
    from lynxstop_research.study_page import study_page
    from lynxstop_research.suites import SUITES

    check_folder(out, "--out")
    need("sklearn", "calibrate")
    need("matplotlib", "report")
    if transfer is None:
        transfer = [name for name in SUITES if name != suite] if suite in SUITES else []
    arguments = arguments_of(argument or [])
    options = StudyOptions(
        risks=risk or RISKS,
        loss=loss,
        collect=CollectOptions(
            engine=engine,
            device=device,
            dtype=dtype,
            batch_size=concurrency,
            # With a further engine they are its own.
            arguments={} if engine == "transformers" and also else arguments,
            seed=seed,
            grader=grader,
        ),
        transfers=transfer,
        transfer_problems=transfer_limit,
        timed=timed,
        compared=compared,
        batches=batch or (1,),
        engines=also or (),
        arguments=arguments,
    )
    # Engines print to stdout.
    with ended_by_sigterm(), redirect_stdout(sys.stderr), ExitStack() as stack:
        found = run(
            model,
            suite,
            out,
            options=options,
            recipe=None if recipe is None else find_recipe(recipe),
            limit=limit,
            tell=tell,
            console=_output.console,
            ask=lambda left: ask(left, yes),
            progress=TrainingBar(stack),
        )
    page = out / "study.html"
    atomic.write_text(page, study_page(found, shlex.join(["lynxstop", *sys.argv[1:]])))
    atomic.write_text(out / "study.json", _text(found.report()))
    if json:
        _output.emit({**found.report(), "page": str(page)})
        return
    for row in found.speed:
        tell(
            f"{row['setting']}: {row['requests_per_second']:.2f} requests/s, {row['thinking']:.0f} thinking "
            f"tokens, {row['disagree']:.1%} answer differently."
        )
    tell(f"Page: {page}. Data: {out / 'study.json'}.")


def _text(content: object) -> str:
    from json import dumps

    from lynxstop.artifacts.plain import plain

    return dumps(plain(content), indent=1, default=str) + "\n"
