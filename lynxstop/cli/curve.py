"""`lynxstop curve`: whether more problems would help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json, Layers, Target
from lynxstop.cli._risk import Confidence
from lynxstop.cli._risk import risk as read_risk
from lynxstop.errors import ConfigError


def curve(
    data: Annotated[Path, typer.Argument(help="Recorded data, from `lynxstop collect`.")],
    risk: Annotated[float, typer.Option(parser=read_risk, help="Level to certify.")] = 0.05,
    confidence: Confidence = 0.95,
    target: Target = "agrees",
    layers: Layers = None,
    repeats: Annotated[int, typer.Option(min=1, help="Random draws of problems.")] = 20,
    seed: Annotated[int, typer.Option(help="Fixes the draws.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with plots.")] = None,
    json: Json = False,
) -> None:
    """Show how AUC and certified savings grow with the problems collected.

    Of every size, half of the problems train a probe and half certify the risk; both are then measured on
    problems set aside. An unfinished collection will do: run it to know when to stop.

    **Examples**

    - `lynxstop curve recorded --risk 0.05 --report curve.html`

    - `lynxstop curve recorded --layers 2,4 --repeats 50 --json`
    """
    from lynxstop.artifacts import atomic
    from lynxstop.cli._checks import check_file
    from lynxstop.cli.train import layers_of
    from lynxstop.extras import need
    from lynxstop.probes.target import target_named
    from lynxstop.recordings.storage import Recording
    from lynxstop.workflows.learning_curve import learning_curve

    predicted = target_named(target)
    if not (0 < risk < 1 and 0 < confidence < 1):
        raise ConfigError("Risk and confidence lie between 0 and 1.")
    check_file(report, "--report")
    if report is not None:
        need("matplotlib", "report")
    recorded = Recording.open(data, partial=True)
    with _output.progress() as bar:
        task = bar.add_task("draws", total=repeats)
        found = learning_curve(
            recorded,
            risk=risk,
            confidence=confidence,
            target=predicted,
            repeats=repeats,
            layers=None if layers is None else layers_of(layers),
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if report is not None:
        from lynxstop.report.learning import learning_report

        atomic.write_text(report, learning_report(found))
    if json:
        _output.emit({"data": str(data), **found.report()})
        return
    rows = _output.table(
        f"Layers {list(found.layers)}, {found.loss} at most {risk:g} at {100 * confidence:g}%",
        *("problems", "AUC", "middle 90%", "saved", "middle 90%", "certified in"),
    )
    for size in found.sizes:
        rows.add_row(
            f"{size.problems:,}",
            f"{size.auc.mean:.3f}",
            f"{size.auc.low:.3f} to {size.auc.high:.3f}",
            f"{size.saved.mean:.1%}",
            f"{size.saved.low:.1%} to {size.saved.high:.1%}",
            f"{size.certified:.0%}",
        )
    _output.console.print(rows)
    _output.console.print(found.advice)
