"""Certified levels, and what was observed of subgroups, as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lynxstop.cli import _output

if TYPE_CHECKING:
    from lynxstop.calibration.run import Calibration


def show(result: Calibration) -> None:
    """Print the certified levels as people read them."""
    from lynxstop.calibration.plan import advice

    first = result.certificates[0]
    shown = _output.table(
        f"{first.loss} by {first.method}, confidence {first.confidence:g}"
        + ("" if first.at is None else f", {first.at}"),
        "group", "risk", "threshold", "losses", "limit", "exits", "saved",
    )  # fmt: skip
    for row in result.rows():
        shown.add_row(
            row["group"] or "all",
            f"{row['risk']:g}",
            "never" if row["refused"] else f"{row['threshold']:.6g}",
            f"{row['k']:g}/{row['n']}",
            "" if row["bound"] is None else f"{row['bound']:.4f}",
            f"{row['exits']:.1%}",
            "" if row["saved"] is None else f"{row['saved']:.1%}",
        )
    _output.console.print(shown)
    if first.unknown:
        _output.console.print(
            f"{first.unknown} of {first.cues} exit answers could not be judged; each counts as a loss of "
            f"{first.settings.unknown_loss:g}."
        )
    _show_subgroups(result)
    for certificate in result.certificates:
        _output.console.print(certificate.promise, markup=False)
        if certificate.refused:
            _output.console.print(advice(certificate.missing), style="yellow")
    _output.console.print(first.not_promised, style="dim")


def _show_subgroups(result: Calibration) -> None:
    from lynxstop.calibration.subgroups import MIX, table_of

    head, rows = table_of(result.pooled)
    if rows:
        shown = _output.table("losses of subgroups", *head)
        for row in rows:
            shown.add_row(*row)
        _output.console.print(shown)
        _output.console.print(MIX, style="dim")
