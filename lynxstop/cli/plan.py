"""`lynxstop plan`: how many problems to collect, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json
from lynxstop.cli._risk import Confidence
from lynxstop.cli._risk import risk as read_risk
from lynxstop.errors import ConfigError

if TYPE_CHECKING:
    from lynxstop.calibration.plan import Plan
    from lynxstop.collect.cost import Cost


def plan(
    risk: Annotated[
        list[float],
        typer.Option(parser=read_risk, help="Level to certify, as 0.05 or 5%; may be given several times."),
    ],
    confidence: Confidence = 0.95,
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
    problems: Annotated[
        int | None, typer.Option(min=1, help="Traces to cost; by default the problems that are needed.")
    ] = None,
    cues: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Cues of a trace, to cost the collection; may be given several times."),
    ] = None,
    thinking_tokens: Annotated[int, typer.Option(min=1, help="Thinking tokens of a trace.")] = 12_000,
    answer_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of a forced exit: its text and the answer.")
    ] = 32,
    tokens_per_second: Annotated[
        float, typer.Option(help="Tokens that the engine generates, all requests together.")
    ] = 1000.0,
    min_tokens: Annotated[int, typer.Option(min=0, help="Guard: no exit before.")] = 0,
    cooldown: Annotated[int, typer.Option(min=0, help="Guard: thinking tokens between two exits.")] = 0,
    stride: Annotated[int, typer.Option(min=1, help="Guard: only every so many-th cue.")] = 1,
    max_points: Annotated[int | None, typer.Option(min=1, help="Guard: cues that may exit, at most.")] = None,
    json: Json = False,
) -> None:
    """Say how many problems a calibration needs, before any are collected, and what collecting them costs.

    How many depends on how often the threshold that you hope for truly loses, which is not known yet: more
    than 0. Several levels are certified together, so each is sized at its share of the error, which is larger
    for stricter levels. With `--cues`, the forced exits, tokens and
    hours of the collection are counted under the given guards, which belong into the recipe's [guards].

    **Examples**

    - `lynxstop plan --risk 0.02 --confidence 0.95 --expected-loss 0.01`

    - `lynxstop plan --risk 0.02 --risk 0.05 --groups 4 --json`

    - `lynxstop plan --risk 0.05 --problems 1000 --cues 160 --cues 537 --stride 4 --max-points 30`
    """
    from lynxstop.calibration.certificate import share
    from lynxstop.calibration.options import CalibrationOptions
    from lynxstop.calibration.plan import likely_losses
    from lynxstop.calibration.plan import plan as size
    from lynxstop.collect.cost import cost
    from lynxstop.core.policy import StopPolicy

    def sized(level: float, loss: float) -> Plan:
        delta = (1.0 - confidence) * share(level, risk)
        return size(level, 1.0 - delta, expected_loss=loss, power=power, exit_share=exit_share)

    CalibrationOptions(risks=tuple(risk), confidence=confidence)
    levels = sorted(risk)
    hoped = {level: likely_losses(level) if expected_loss is None else (expected_loss,) for level in levels}
    plans = [sized(level, hoped[level][-1]) for level in levels]
    rows = [
        sized(level, loss)
        for level in levels
        for loss in (*((0.0,) if expected_loss is None else ()), *hoped[level])
    ]
    needed = groups * max(made.problems for made in plans)
    guards = StopPolicy((0,), min_tokens=min_tokens, cooldown=cooldown, stride=stride, max_points=max_points)
    if guards.guarded and not cues:
        raise ConfigError(
            "Guards change what a collection costs, not how many problems it needs.",
            hint="Give --cues, the number of cues in a trace, to cost it.",
        )
    costs = [
        cost(
            problems or needed,
            guards,
            cues=count,
            thinking_tokens=thinking_tokens,
            answer_tokens=answer_tokens,
            tokens_per_second=tokens_per_second,
        )
        for count in cues or ()
    ]
    if json:
        _output.emit(
            {
                "problems": needed,
                "groups": groups,
                "levels": [asdict(made) for made in plans],
                "by_true_loss": [asdict(made) for made in rows],
                **({"costs": [asdict(made) for made in costs]} if costs else {}),
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
    if costs:
        _show_costs(costs, problems or needed, tokens_per_second)


def _losses(plans: Sequence[Plan]) -> str:
    return " or ".join(dict.fromkeys(f"{100 * made.expected_loss:g}%" for made in plans))


def _show_costs(costs: list[Cost], traces: int, tokens_per_second: float) -> None:
    shown = _output.table(
        f"Cost of {traces:,} traces",
        *("cues", "forced exits", "of a trace", "thinking tokens", "answer tokens", "hours"),
    )
    for made in costs:
        shown.add_row(
            f"{made.cues:,}",
            f"{made.forced_exits:,}",
            f"{made.kept:,}",
            f"{made.thinking_tokens:,}",
            f"{made.answer_tokens:,}",
            f"{made.hours:.1f}",
        )
    _output.console.print(shown)
    _output.console.print(
        f"At {tokens_per_second:,.0f} generated tokens per second, with a prefix cache; without one, up to "
        f"{max(made.read_tokens for made in costs):,} tokens are read again.",
        soft_wrap=True,
    )
