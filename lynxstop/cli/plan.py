"""`lynxstop plan`: how many problems to collect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._risk import risk as read_risk

if TYPE_CHECKING:
    from lynxstop.calibration.plan import Plan


def plan(
    risk: Annotated[
        list[float],
        typer.Option(parser=read_risk, help="Level to certify, as 0.05 or 5%; may be given several times."),
    ],
    confidence: Annotated[float, typer.Option(help="Confidence of the promise.")] = 0.95,
    expected_loss: Annotated[
        float | None,
        typer.Option(
            parser=read_risk,
            help="True risk of the threshold you hope to certify, below every level; else 0, 1%, 2%.",
        ),
    ] = None,
    power: Annotated[float, typer.Option(help="Probability of certifying it.")] = 0.8,
    exit_share: Annotated[
        float, typer.Option(help="Share of requests that exit, for the loss wrong|exit; else 1.")
    ] = 1.0,
    groups: Annotated[int, typer.Option(min=1, help="Groups to certify, each with its own problems.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how many problems a calibration needs, before any are collected.

    How many depends on how often the threshold that you hope for truly loses, which is not known yet: more
    than 0. Several levels are certified together, so each is sized at its share of the error, which is larger
    for stricter levels.

    **Examples**

    - `lynxstop plan --risk 0.02 --confidence 0.95 --expected-loss 0.01`

    - `lynxstop plan --risk 0.02 --risk 0.05 --groups 4 --json`
    """
    from lynxstop.calibration.certificate import share
    from lynxstop.calibration.plan import likely_losses
    from lynxstop.calibration.plan import plan as size

    def sized(level: float, loss: float) -> Plan:
        delta = (1.0 - confidence) * share(level, risk)
        return size(level, 1.0 - delta, expected_loss=loss, power=power, exit_share=exit_share)

    levels = sorted(risk)
    hoped = {level: likely_losses(level) if expected_loss is None else (expected_loss,) for level in levels}
    plans = [sized(level, hoped[level][-1]) for level in levels]
    rows = [
        sized(level, loss)
        for level in levels
        for loss in (*((0.0,) if expected_loss is None else ()), *hoped[level])
    ]
    needed = groups * max(made.problems for made in plans)
    if json:
        _output.emit(
            {
                "problems": needed,
                "groups": groups,
                "levels": [asdict(made) for made in plans],
                "by_true_loss": [asdict(made) for made in rows],
            }
        )
        return
    shown = _output.table(
        f"Problems per group, confidence {confidence:g}",
        "risk",
        "true loss",
        "problems",
        "losses allowed",
        "power",
    )
    for made in rows:
        shown.add_row(
            f"{made.risk:g}",
            f"{100 * made.expected_loss:g}%",
            f"{made.problems:,}",
            f"{made.allowed:,}",
            f"{made.power:.2f}",
        )
    _output.console.print(shown)
    _output.console.print(
        f"Collect {needed:,} problems that the probe is not trained on, one trace of each: enough where the "
        f"threshold that you hope for truly loses {_losses(plans)} of the requests.",
        soft_wrap=True,
    )
    floor = groups * max(made.floor for made in plans)
    if floor < needed:
        _output.console.print(
            f"With {floor:,}, only a threshold without a single loss is certified; below that, none.",
            style="dim",
            soft_wrap=True,
        )


def _losses(plans: Sequence[Plan]) -> str:
    return " or ".join(dict.fromkeys(f"{100 * made.expected_loss:g}%" for made in plans))
