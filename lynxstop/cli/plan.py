"""`lynxstop plan`: how many problems to collect."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._risk import risk as read_risk


def plan(
    risk: Annotated[
        list[float],
        typer.Option(parser=read_risk, help="Level to certify, as 0.05 or 5%; may be given several times."),
    ],
    confidence: Annotated[float, typer.Option(help="Confidence of the promise.")] = 0.95,
    expected_loss: Annotated[
        float,
        typer.Option(parser=read_risk, help="Risk of the threshold you hope to certify; below every level."),
    ] = 0.0,
    power: Annotated[float, typer.Option(help="Probability of certifying it.")] = 0.8,
    exit_share: Annotated[
        float, typer.Option(help="Share of requests that exit, for the loss wrong|exit; else 1.")
    ] = 1.0,
    groups: Annotated[int, typer.Option(min=1, help="Groups to certify, each with its own problems.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how many problems a calibration needs, before any are collected.

    Several levels are certified together, so each is sized at its share of the error, which is larger for
    stricter levels.

    **Examples**

    - `lynxstop plan --risk 0.02 --confidence 0.95 --expected-loss 0.01`

    - `lynxstop plan --risk 0.02 --risk 0.05 --groups 4 --json`
    """
    from lynxstop.calibration.certificate import share
    from lynxstop.calibration.plan import plan as size

    plans = [
        size(
            level,
            1.0 - (1.0 - confidence) * share(level, risk),
            expected_loss=expected_loss,
            power=power,
            exit_share=exit_share,
        )
        for level in sorted(risk)
    ]
    needed = groups * max(made.problems for made in plans)
    if json:
        _output.emit({"problems": needed, "groups": groups, "levels": [asdict(made) for made in plans]})
        return
    shown = _output.table(
        f"Problems per group, confidence {confidence:g}",
        "risk",
        "problems",
        "losses allowed",
        "at least",
        "power",
    )
    for made in plans:
        shown.add_row(
            f"{made.risk:g}",
            f"{made.problems:,}",
            f"{made.allowed:,}",
            f"{made.floor:,}",
            f"{made.power:.2f}",
        )
    _output.console.print(shown)
    _output.console.print(f"Collect {needed:,} problems that the probe is not trained on, one trace of each.")
