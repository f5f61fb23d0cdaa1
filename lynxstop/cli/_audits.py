"""`lynxstop calibrate --from-audit`: the levels of a bundle, tested again on audited requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lynxstop.cli import _output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lynxstop.artifacts.front_matter import Measured
    from lynxstop.calibration.options import CalibrationOptions
    from lynxstop.calibration.run import Calibration


def recalibrate(
    bundle: Path,
    state: str,
    options: CalibrationOptions,
    risks: Sequence[float],
    require: bool,
    json: bool,
    show: Callable[[Calibration, Sequence[Measured]], None],
) -> None:
    """Test the levels on the audits, write the certificates, and show the old ones beside the new ones."""
    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.monitor.levels import journal_at
    from lynxstop.workflows import audited_traffic as audits
    from lynxstop.workflows.calibrate_bundle import install, measured

    journal = journal_at(state)
    loaded, traffic = Bundle.load(bundle), audits.read_audits(journal)
    levels = audits.audited_levels(loaded, traffic, risks)
    chosen = replace(
        options, risks=sorted({level.risk for level in levels}), method=options.method or audits.METHOD
    )
    made, too_few = audits.calibrate_from_audits(loaded, traffic, levels, chosen)
    old = measured(loaded)
    for one in made:
        if require:
            one.require()
    for one in made:
        loaded = install(loaded, one)
    told = {**audits.summary(traffic, too_few), "changed": audits.changed(journal)}
    if json:
        rows = [row for one in made for row in one.rows()]
        _output.emit({"levels": rows, "written": str(bundle), **told, **replaced(old)})
        return
    for one in made:
        show(one, old)
    for name, more in too_few.items():
        _output.console.print(
            f"The level {name} stays as it was: its audits are too few, it takes "
            f"{audits.said_too_few(more)}.",
            style="yellow",
        )
    for reason in told["changed"].values():
        _output.console.print(
            f"{reason} These certificates are about all audits since the last reset, not about the requests "
            "since then: to certify those, run `lynxstop monitor reset` first, or use --from-shadow.",
            style="yellow",
        )
    _output.console.print(
        f"{told['lost']} audits were lost and count as losses. {told['repeated_prompts']} repeat the prompt "
        f"of another, and {told['calibration_prompts']} have a prompt of the calibration data. Restart the "
        "servers of this bundle, and run `lynxstop monitor reset`."
    )


def replaced(old: Sequence[Measured] | None) -> dict[str, object]:
    """Return the certificates that were replaced, as plain JSON."""
    names = ("risk", "promise", "problems", "lost", "bound", "saved")
    return {} if old is None else {"replaced": [{name: getattr(one, name) for name in names} for one in old]}


def compare(old: Sequence[Measured], result: Calibration) -> None:
    """Print the replaced certificates beside the new ones."""
    # Replaced levels name their sampling only where that is not the bundle's own.
    named = {level.at for level in old}
    new = {(one.at if one.at in named else None, one.risk): one for one in result.pooled}
    shown = _output.table(
        "before, and now", "risk", "requests", "", "observed loss", "", "limit", "", "saved", ""
    )
    for level in old:
        if (made := new.get((level.at, level.risk))) is not None:
            observed = made.observed / made.problems
            pairs = [
                (str(level.problems), str(made.problems)),
                (f"{level.lost:.2%}", f"{observed:.2%}"),
                (_share(level.bound), _share(made.bound)),
                (_share(level.saved), _share(made.saved)),
            ]
            at = "" if level.at is None else f" at {level.at}"
            shown.add_row(f"{level.risk:g}{at}", *(text for pair in pairs for text in pair))
    if shown.row_count:
        _output.console.print(shown)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"
