"""`lynxstop monitor`: what the audits of live traffic say, and starting them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json
from lynxstop.cli._risk import risk as read_risk

if TYPE_CHECKING:
    from lynxstop.monitor.levels import LevelMonitors
    from lynxstop.monitor.monitor import Finding, LevelKey

app = typer.Typer(
    no_args_is_help=True, help="Look at what the audits of live traffic say, or start them again."
)

ALARM, UNKNOWN = 1, 3
"""Exit statuses: a level's promise is broken; the audits cannot be read."""

State = Annotated[
    str, typer.Argument(help="Folder that [monitor] state names, or the address of its Redis server.")
]


@app.command()
def status(
    state: State,
    json: Json = False,
) -> None:
    """Say whether every certified level still holds; exit status 1 on an alarm, 3 when that is unknown.

    **Examples**

    - `lynxstop monitor status audits`

    - `lynxstop monitor status redis://127.0.0.1:6379/0 --json`
    """
    from lynxstop.monitor.levels import open_state

    monitors = open_state(state)
    rows = [(key, finding) for key, finding in sorted(monitors.findings.items(), key=_order)]
    if json:
        levels = [{**key._asdict(), **finding.to_json()} for key, finding in rows]
        overall = _overall(monitors)
        _output.emit(
            {"state": overall, "trouble": monitors.trouble, "begun": len(monitors.pending), "levels": levels}
        )
    else:
        _show(monitors, rows)
    code = {"unknown": UNKNOWN, "alarm": ALARM}.get(_overall(monitors), 0)
    if code:
        raise typer.Exit(code)


@app.command()
def reset(
    state: State,
    model: Annotated[str | None, typer.Option(help="Only the levels of this model.")] = None,
    group: Annotated[str | None, typer.Option(help="Only those of this group.")] = None,
    risk: Annotated[float | None, typer.Option(parser=read_risk, help="Only those of this risk.")] = None,
    json: Json = False,
) -> None:
    """Start the audits of levels again; proxies that run notice it within seconds.

    The journal keeps all earlier audits. Reset after calibrating again, not to silence an alarm: every reset
    gives a new chance of one that is false, and hides what was known.

    **Examples**

    - `lynxstop monitor reset audits`

    - `lynxstop monitor reset audits --model qwen3 --risk 0.05`
    """
    import time

    from lynxstop.monitor.entries import Reset
    from lynxstop.monitor.levels import open_state

    monitors = open_state(state)
    before = len(monitors.findings)
    monitors.journal.append(Reset(model, group, risk, at=time.time()))
    monitors.catch_up()
    monitors.save()
    left = len(monitors.findings)
    if json:
        _output.emit({"reset": before - left, "state": _overall(monitors), "trouble": monitors.trouble})
    else:
        _output.console.print(f"{before - left} of {before} levels start again.")
        if monitors.trouble:
            _output.console.print(
                f"{monitors.trouble} Only a reset of all levels ends that.", style="yellow", markup=False
            )


def _order(pair: tuple[LevelKey, Finding]) -> tuple[str, str, float]:
    return pair[0].model, pair[0].group or "", pair[0].risk


def _overall(monitors: LevelMonitors) -> str:
    states = {finding.state for finding in monitors.findings.values()}
    if monitors.trouble:
        return "unknown"
    return next((state for state in ("alarm", "changed", "inputs") if state in states), "ok")


def _show(monitors: LevelMonitors, rows: list[tuple[Any, Finding]]) -> None:
    table = _output.table(
        f"audited risk, alarm at an e-value of {1 / monitors.options.level:g}",
        "model", "group", "risk", "state", "audits", "exits", "losses", "live risk (95%)", "e-value",
        "two full answers differ (95%)",
    )  # fmt: skip
    for key, one in rows:
        table.add_row(
            key.model,
            key.group or "all",
            f"{key.risk:g}",
            one.state,
            str(one.audits),
            str(one.exits),
            f"{one.lost:g}",
            _interval(one.lost, one.audits, one.interval),
            f"{one.e_value:.3g}",
            _interval(one.differed, one.repeats, one.self_interval),
        )
    _output.console.print(table)
    for key, one in rows:
        if one.reason:
            _output.console.print(f"{key.model}: {one.reason}", style="yellow", markup=False)
    if monitors.pending:
        _output.console.print(f"{len(monitors.pending)} audits have begun and not ended.")
    if monitors.trouble:
        _output.console.print(monitors.trouble, style="bold red", markup=False)


def _interval(total: float, count: int, bounds: tuple[float, float]) -> str:
    return "" if not count else f"{total / count:.2%} ({bounds[0]:.2%} to {bounds[1]:.2%})"
