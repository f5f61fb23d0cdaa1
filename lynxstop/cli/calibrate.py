"""`lynxstop calibrate`: turn scores into certified thresholds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lynxstop.calibration.losses import LOSSES
from lynxstop.calibration.methods import METHODS
from lynxstop.cli import _output
from lynxstop.cli._audits import compare, recalibrate, replaced
from lynxstop.cli._levels import show
from lynxstop.cli._options import Json
from lynxstop.cli._risk import Confidence
from lynxstop.cli._risk import risk as read_risk
from lynxstop.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.artifacts.front_matter import Measured
    from lynxstop.calibration.options import CalibrationOptions, Together
    from lynxstop.calibration.run import Calibration
    from lynxstop.calibration.units import Samples, Unit


def calibrate(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle of a trained probe.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Recorded traces of other problems. Several recordings of different temperatures, top-p or "
            "top-k certify each of these samplings by itself."
        ),
    ] = None,
    risk: Annotated[
        list[float] | None,
        typer.Option(parser=read_risk, help="Level to certify, as 0.05 or 5%; may be given several times."),
    ] = None,
    confidence: Confidence = 0.95,
    loss: Annotated[
        str, typer.Option(help=f"{', '.join(LOSSES)}, or a loss column of the table.")
    ] = "disagree",
    method: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(METHODS)}."),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Certify every value of this column, too.")] = None,
    subgroup: Annotated[
        list[str] | None,
        typer.Option(
            help="Count losses for every value of this column, too, beside family and difficulty; nothing is "
            "promised about them. May be given several times."
        ),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Certify this score table (CSV or Parquet) instead of a bundle.")
    ] = None,
    from_shadow: Annotated[
        Path | None,
        typer.Option(
            help="Folder of shadow traffic, recorded by the proxy with this bundle, in place of DATA."
        ),
    ] = None,
    from_audit: Annotated[
        str | None,
        typer.Option(
            help="Test the levels again on the audits of live traffic: the folder that [monitor] state of "
            "the proxy names, or the address of its Redis server, in place of DATA."
        ),
    ] = None,
    train: Annotated[
        Path | None,
        typer.Option(help="Training traces (folder, or score table) on which the thresholds are fixed."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Take only the traces of this split.")] = None,
    unit: Annotated[
        str,
        typer.Option(help="What is promised about: a request, or a problem, however often it is asked."),
    ] = "request",
    samples: Annotated[
        str | None, typer.Option(help="What several samples of a problem become: one (drawn), or mean.")
    ] = None,
    together: Annotated[
        str, typer.Option(help="Which promises hold at once: levels (of a group), all, or none.")
    ] = "levels",
    unknown_loss: Annotated[
        float, typer.Option(min=0, max=1, help="Loss of an exit answer that could not be judged.")
    ] = 1.0,
    tried: Annotated[
        int,
        typer.Option(min=1, help="Rules, seeds or losses tried on these data, of which this is the best."),
    ] = 1,
    weights: Annotated[
        Path | None, typer.Option(help="Table of trace_id and weight, for the method weighted.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws one sample per problem, and problems by size.")] = 0,
    expires: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until the certificates expire.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the certificates of a score table.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report.")] = None,
    default_risk: Annotated[
        float | None,
        typer.Option(
            parser=read_risk, help="Level for requests that name none; by default the strictest that exits."
        ),
    ] = None,
    require: Annotated[bool, typer.Option("--require", help="Fail when a level never exits.")] = False,
    json: Json = False,
) -> None:
    """Certify thresholds: at most this risk, per request, with this confidence.

    A bundle gets the certified levels and their certificates. A score table of any system has the columns
    trace_id, problem_id, cue, score and loss, and may have tokens, full_tokens and one to group by; a trace
    without cues is one row with an empty cue.

    **Examples**

    - `lynxstop calibrate BUNDLE data/calibration --risk 0.02 --risk 0.05 --report report.html`

    - `lynxstop calibrate BUNDLE data/calibration --risk 0.05 --by family --expires 90`

    - `lynxstop calibrate BUNDLE data/at-0.6 data/at-1.0 --risk 0.05`

    - `lynxstop calibrate BUNDLE --from-shadow shadow --risk 0.05`

    - `lynxstop calibrate BUNDLE --from-audit audits`

    - `lynxstop calibrate --scores table.csv --risk 0.05 --confidence 0.95 --json`
    """
    from lynxstop.calibration.options import CalibrationOptions
    from lynxstop.workflows import calibrate_bundle as bundles

    _check_places(bundle, out, report)
    options = CalibrationOptions(
        risks=risk or [0.05],
        confidence=confidence,
        loss=loss,
        method=method,
        by=by,
        subgroups=tuple(dict.fromkeys(subgroup or ())),
        unit=cast("Unit", unit),
        samples=cast("Samples | None", samples),
        together=cast("Together", together),
        unknown_loss=unknown_loss,
        tried=tried,
        seed=seed,
        expires=None if expires is None else datetime.now(UTC) + timedelta(days=expires),
    )
    if from_audit is not None:
        _check_alone(
            "--from-audit", bundle, DATA=data, scores=scores, from_shadow=from_shadow, train=train,
            weights=weights, split=split, out=out, report=report, subgroup=subgroup,
            default_risk=default_risk,
        )  # fmt: skip
        recalibrate(cast("Path", bundle), from_audit, options, risk or [], require, json, _show_replacing)
        return
    if from_shadow is not None:
        _check_alone(
            "--from-shadow", bundle, DATA=data, scores=scores, train=train, weights=weights, split=split,
            out=out,
        )  # fmt: skip
        loaded, made = _certify_shadow(cast("Path", bundle), from_shadow, options)
    elif scores is not None:
        if bundle or data or split or default_risk is not None:
            raise ConfigError(
                "A score table stands for itself.",
                hint="Leave out BUNDLE, DATA, --split and --default-risk. Shadow traffic of a bundle goes to "
                "--from-shadow.",
            )
        loaded, made = None, _certify_table(scores, train, weights, options)
    elif bundle is None or not data:
        raise ConfigError("Give a bundle and recorded traces, or a table with --scores.")
    elif out is not None:
        raise ConfigError("Certificates of a bundle are written into it.", hint="Leave out --out.")
    else:
        loaded, made = _certify_bundle(bundle, data, train, weights, split, options)
    folder = scores.parent if scores is not None else from_shadow
    before = _note(data or [cast("Path", folder)], made, options)
    if require:
        _require(made)
    page = None if report is None else _page(made, logits=loaded is not None)
    old = None if loaded is None or from_shadow is None else bundles.measured(loaded)
    if loaded is not None:
        bundles.install(loaded, made[0], default_risk, made[1:])
    elif out is not None:
        bundles.write_certificates(made[0], out)
    if report is not None and page is not None:
        from lynxstop.artifacts import atomic

        atomic.write_text(report, page)
    _tell(made, old, {"written": str(bundle or out) if bundle or out else None, "tried": before}, json)


def _check_places(bundle: Path | None, out: Path | None, report: Path | None) -> None:
    from lynxstop.artifacts.bundle import FOLDER
    from lynxstop.cli._checks import check_file, check_folder
    from lynxstop.extras import need

    if report is not None:
        need("matplotlib", "report")
    if bundle is not None and bundle.is_dir():
        check_folder(bundle, "the argument BUNDLE")
        check_folder(bundle / FOLDER, "the argument BUNDLE")
    if out is not None:
        check_folder(out, "--out")
    check_file(report, "--report")


def _tell(
    made: Sequence[Calibration], old: Sequence[Measured] | None, shown: dict[str, object], json: bool
) -> None:
    """Print what was certified, beside what it replaces."""
    if json:
        _output.emit({"levels": [row for one in made for row in one.rows()], **shown, **replaced(old)})
        return
    for one in made:
        show(one)
    compare(old or (), made[0])


def _require(made: Sequence[Calibration]) -> None:
    for one in made:
        one.require()


def _page(made: Sequence[Calibration], *, logits: bool) -> str:
    from lynxstop.report.calibration import calibration_report

    return calibration_report(*made, logits=logits)


def _check_alone(option: str, bundle: Path | None, **others: object) -> None:
    """Refuse what does not go with `option`; the others are named as on the command line."""
    given = [name for name, value in others.items() if value]
    if bundle is None or given:
        named = [name if name.isupper() else f"--{name.replace('_', '-')}" for name in given]
        raise ConfigError(
            f"{option} certifies the bundle that served this traffic.",
            hint="Name that bundle: BUNDLE." if bundle is None else f"Leave out {', '.join(named)}.",
        )


def _show_replacing(result: Calibration, old: Sequence[Measured]) -> None:
    show(result)
    compare(old, result)


def _certify_shadow(
    bundle: Path, folder: Path, options: CalibrationOptions
) -> tuple[Bundle, Sequence[Calibration]]:
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.cli.shadow import left_out
    from lynxstop.workflows.shadow_traffic import calibrate_from_shadow, read_shadow

    loaded = Bundle.load(bundle)
    traffic = read_shadow(folder, by=options.by, subgroups=options.subgroups)
    if said := left_out(traffic.left_out):
        _output.console.print(said, style="yellow")
    return loaded, (calibrate_from_shadow(loaded, traffic, options),)


def _certify_table(
    scores: Path, train: Path | None, weights: Path | None, options: CalibrationOptions
) -> Sequence[Calibration]:
    from lynxstop.calibration import run, tables

    table = tables.read_table(scores, by=options.by, loss=options.loss, subgroups=options.subgroups)
    made = run.calibrate(
        table,
        options,
        train_scores=None if train is None else tables.read_table(train, loss=options.loss),
        weights=None if weights is None else tables.read_weights(weights, table.trace_ids),
    )
    return (made,)


def _certify_bundle(
    bundle: Path,
    data: Sequence[Path],
    train: Path | None,
    weights: Path | None,
    split: str | None,
    options: CalibrationOptions,
) -> tuple[Bundle, Sequence[Calibration]]:
    import numpy as np

    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.calibration import tables
    from lynxstop.recordings.storage import Recording
    from lynxstop.workflows.calibrate_bundle import calibrate_bundle
    from lynxstop.workflows.calibrate_samplings import calibrate_samplings

    loaded, recorded = Bundle.load(bundle), [Recording.open(one) for one in data]
    fixed = None if train is None else Recording.open(train)
    if len(recorded) > 1:
        if weights is not None:
            raise ConfigError("Weights are of one recording.", hint="Leave --weights out.")
        return loaded, calibrate_samplings(loaded, recorded, options, train=fixed, split=split)
    weighed = None
    if weights is not None:
        rows = recorded[0].traces().select(["trace_id", "split"]).to_pylist()
        ids = sorted(row["trace_id"] for row in rows if split in (None, row["split"]))
        weighed = tables.read_weights(weights, np.array(ids, dtype=np.str_))
    found = calibrate_bundle(loaded, recorded[0], options, train=fixed, split=split, weights=weighed)
    return loaded, (found,)


def _note(folders: Sequence[Path], results: Sequence[Calibration], options: CalibrationOptions) -> int | None:
    """Enter each calibration in the ledger beside its data; return how many there are of these data."""
    from lynxstop.calibration import ledger
    from lynxstop.errors import DataError

    most = None
    for folder, result in zip(folders, results, strict=True):
        try:
            made = ledger.record(folder / ledger.NAME, ledger.attempt(result.evidence, options))
        except DataError as error:
            _output.console.print(f"{error.message} {error.hint}", style="yellow", markup=False)
            continue
        tell_tried(made, options.tried, folder)
        most = max(most or 0, made)
    return most


def tell_tried(made: int, counted: int, folder: Path) -> None:
    """Say that more calibrations were tried on these data than the promise counts."""
    from lynxstop.calibration import ledger

    if made > counted:
        _output.console.print(
            f"{made} calibrations were tried on these data ({folder / ledger.NAME}), and the promise counts "
            f"{counted}: it does not hold for the best of them. Give `lynxstop calibrate` --tried {made}, "
            "calibrate on other data, or use --method anytime where problems are only added.",
            style="yellow",
            markup=False,
        )
