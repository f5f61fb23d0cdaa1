"""`lynxstop shadow`: what recorded shadow traffic says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lynxstop.cli import _output
from lynxstop.cli._options import Json
from lynxstop.cli._risk import risk as read_risk

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Say what recorded shadow traffic would have saved, and at which risk."""


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder that `lynxstop proxy --record` has written.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Take the levels of this bundle, at their thresholds.")
    ] = None,
    risk: Annotated[
        list[float] | None,
        typer.Option(parser=read_risk, help="Level to look for a threshold for, without --bundle."),
    ] = None,
    json: Json = False,
) -> None:
    """Say what exits would have saved, at which risk, and what the forced answers cost.

    With a bundle, at the thresholds of its levels. Otherwise, at those that a certificate on all of this
    traffic would have. Nothing is certified: that takes `lynxstop calibrate BUNDLE --from-shadow`.

    **Examples**

    - `lynxstop shadow report shadow --bundle BUNDLE`

    - `lynxstop shadow report shadow --risk 0.02 --risk 0.05 --json`
    """
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.calibration.options import CalibrationOptions
    from lynxstop.calibration.run import calibrate
    from lynxstop.workflows.shadow_traffic import read_shadow, shadow_report

    traffic = read_shadow(folder)
    if bundle is not None:
        found = [(level.risk, level.threshold) for level in Bundle.load(bundle).policy.pooled]
    else:
        result = calibrate(traffic.table, CalibrationOptions(risks=risk or [0.02, 0.05, 0.1]))
        found = [(one.risk, one.threshold) for one in result.pooled]
    content = shadow_report(traffic, found)
    if json:
        _output.emit(content)
    else:
        _show(content)


def _show(content: dict[str, Any]) -> None:
    table = _output.table(
        f"{content['requests']} requests, {content['prompts']} prompts, in shadow",
        "risk", "threshold", "exits", "thinking saved", "would have differed (95%)",
    )  # fmt: skip
    for row in content["levels"]:
        table.add_row(
            f"{row['risk']:g}",
            f"{row['threshold']:.6g}",
            f"{row['exits']:.1%}",
            "" if row["saved"] is None else f"{row['saved']:.1%}",
            f"{row['observed']:.2%} ({row['lower']:.2%} to {row['upper']:.2%})",
        )
    _output.console.print(table)
    thinking = content["thinking_tokens"]
    share = f", {content['forced_tokens'] / thinking:.1%} of the thinking" if thinking else ""
    _output.console.print(
        f"{content['forced_answers']} answers were forced, {content['unknown']} of which could not be judged "
        f"and count as different. They cost {content['forced_tokens']} generated tokens{share}."
    )
    if said := left_out(content["left_out"]):
        _output.console.print(said, style="yellow")


def left_out(counts: Mapping[str, int]) -> str:
    """Say which requests are not in the table; empty when all are."""
    reasons = {
        "unfinished": "did not come to their end",
        "unread": "had tokens that could not be read",
        "failed": "could not be recorded",
    }
    parts = [f"{count} {reasons.get(why, why)}" for why, count in sorted(counts.items())]
    return f"Not in the table, and in no promise on it: {', '.join(parts)}." if parts else ""
