"""`lynxstop evaluate`: replay rules, or a bundle's levels, on recorded traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lynxstop.calibration.losses import loss_names
from lynxstop.cli import _output
from lynxstop.cli._options import Json
from lynxstop.cli._risk import Confidence
from lynxstop.cli._risk import risk as read_risk
from lynxstop.errors import ConfigError, StepError

if TYPE_CHECKING:
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.recordings.storage import Recording


_WIDE = 170
_BRIEF = ("rule", "accuracy", "disagree", "exits", "net", "of the oracle's")
"""Columns of the table where the terminal has no room for all; the report and --csv have all."""
_SHOWN = ("risk", "accuracy full", "early", "saved", "of oracle", "exits", "disagree", "harm", "help")
"""Columns of a bundle's levels."""


def evaluate(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="Recorded traces that the bundle was not trained on.")],
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle: its levels, or its probe for the rules.")
    ] = None,
    rules: Annotated[
        str | None, typer.Option(help="Compare these rules, separated by commas, or `all`.")
    ] = None,
    risk: Annotated[float, typer.Option(parser=read_risk, help="Level at which rules are certified.")] = 0.05,
    confidence: Confidence = 0.95,
    loss: Annotated[str, typer.Option(help=f"{', '.join(loss_names(selective=False))}.")] = "disagree",
    points: Annotated[
        str | None,
        typer.Option(
            help="Where rules may exit: cue, boundary, interval, joined by commas, or all; by default the "
            "bundle's, else cues."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split by problem and of the intervals.")] = 0,
    csv: Annotated[Path | None, typer.Option(help="Also write the table as CSV.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report.")] = None,
    json: Json = False,
) -> None:
    """Compare rules on recorded traces, each certified at the same level, beside the oracle.

    The traces are split by problem: rules learn on one part, are certified on another, and replayed on the
    third. With a bundle and without `--rules`, its certified levels are replayed on all traces instead.

    **Examples**

    - `lynxstop evaluate recorded/test --rules all --report rules.html`

    - `lynxstop evaluate recorded/test --bundle bundle --rules lynx,deer,combined --risk 0.02 --csv rules.csv`

    - `lynxstop evaluate recorded/test --bundle bundle --json`
    """
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.cli._checks import check_file
    from lynxstop.recordings.storage import Recording

    check_file(csv, "--csv")
    check_file(report, "--report")
    if bundle is not None and rules is None:
        _check_of_rules(context)
    loaded = None if bundle is None else Bundle.load(bundle)
    if loaded is not None and rules is None and not loaded.policy.levels:
        raise StepError(f"{bundle} is not calibrated.", hint="Run `lynxstop calibrate` first.")
    recorded = Recording.open(data)
    if loaded is not None:
        from lynxstop.workflows.replay_levels import check_unseen

        check_unseen(loaded, recorded)
    if loaded is not None and rules is None:
        _levels(loaded, recorded, csv, report, json)
    else:
        _rules(recorded, loaded, rules or "all", risk, confidence, loss, points, seed, csv, report, json)


def _check_of_rules(context: typer.Context) -> None:
    """Refuse options of rules where the levels of a bundle are replayed: those are certified already."""
    given = [
        f"--{name}"
        for name in ("risk", "confidence", "loss", "points", "seed")
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise ConfigError(
            f"{', '.join(given)} would change nothing: the certified levels of the bundle are replayed.",
            hint="Leave it out, or compare rules with --rules.",
        )


def _rules(
    recorded: Recording,
    bundle: Bundle | None,
    names: str,
    risk: float,
    confidence: float,
    loss: str,
    points: str | None,
    seed: int,
    csv: Path | None,
    report: Path | None,
    json: bool,
) -> None:
    from lynxstop.artifacts import atomic
    from lynxstop.core.points import points_named
    from lynxstop.evaluate.compare import compare
    from lynxstop.evaluate.report import SHOWN, as_csv, as_json, as_page, cells, lead, ordered
    from lynxstop.extras import need
    from lynxstop.rules.table import all_rules, rule_named

    featured = bool(recorded.layers)
    chosen = (
        [rule for rule in all_rules().values() if featured or "hidden" not in rule.needs]
        if names == "all"
        else [rule_named(name) for name in names.split(",")]
    )
    if report is not None:
        need("matplotlib", "report")
    with _output.progress() as bar:
        task = bar.add_task("rules", total=None)
        found = compare(
            recorded,
            chosen,
            probe=None if bundle is None else bundle.probe,
            policy=None if bundle is None else bundle.policy.stop_policy(),
            risk=risk,
            confidence=confidence,
            loss=loss,
            points=None if points is None else points_named(points),
            seed=seed,
            progress=lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            ),
        )
    if csv is not None:
        atomic.write_text(csv, as_csv(found))
    if report is not None:
        atomic.write_text(report, as_page(found))
    if json:
        typer.echo(as_json(found), nl=False)
        return
    wide = _output.console.width >= _WIDE
    columns = [i for i, name in enumerate(SHOWN) if wide or name in _BRIEF]
    shown = _output.table(f"{found.about['traces']['test']} test traces", *(SHOWN[i] for i in columns))
    for line in ordered(found):
        row = cells(line)
        shown.add_row(*(row[i] for i in columns))
    _output.console.print(shown)
    _output.console.print(lead(found))


def _levels(bundle: Bundle, recorded: Recording, csv: Path | None, report: Path | None, json: bool) -> None:
    from lynxstop.artifacts import atomic
    from lynxstop.workflows.replay_levels import replay_levels

    rows = replay_levels(bundle, recorded)
    if csv is not None:
        _write_csv(csv, rows)
    if report is not None:
        atomic.write_text(report, _page(rows))
    if json:
        _output.emit({"bundle": str(bundle.path), "data": str(recorded.path), "levels": rows})
        return
    show_levels(rows, f"{rows[0]['n_problems']} recorded traces")


def _page(rows: Sequence[dict[str, Any]]) -> str:
    from lynxstop.report.page import Page

    page = Page(
        "What would each level have done?",
        f"{rows[0]['n_problems']} recorded traces that the probe was not trained on, replayed at each level. "
        "Of those that the levels were certified on, this is a replay and no test.",
        footer="The oracle exits at the first cue whose answer agrees with the full one.",
    )
    page.table(_SHOWN, [_cells(row) for row in rows])
    return page.render()


def show_levels(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Print what levels would have done, as people read it."""
    shown = _output.table(title, *_SHOWN)
    for row in rows:
        shown.add_row(*_cells(row))
    _output.console.print(shown)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['risk']:g}",
        _percent(row["accuracy_full"]),
        _percent(row["accuracy_early"]),
        _percent(row["saved"]),
        _percent(row["share_of_oracle"]),
        f"{row['exits']}",
        f"{row['disagree']} ({row['disagree'] / row['n_problems']:.1%})",
        f"{row['harm']}",
        f"{row['help']}",
    ]


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv
    import io

    from lynxstop.artifacts import atomic

    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_text(path, text.getvalue())
