"""`lynxstop evaluate`: replay a bundle's levels on recorded traces."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lynxstop.cli import _output
from lynxstop.errors import StepError


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A calibrated bundle.")],
    data: Annotated[Path, typer.Argument(help="Recorded traces that the bundle has not seen.")],
    csv: Annotated[Path | None, typer.Option(help="Also write the table as CSV.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Replay every certified level of a bundle on recorded traces, beside full thinking and the oracle.

    **Examples**

    - `lynxstop evaluate bundle recorded/test`

    - `lynxstop evaluate bundle recorded/test --csv table.csv --json`
    """
    import numpy as np

    from lynxstop.artifacts.bundle import Bundle
    from lynxstop.artifacts.fingerprint import require_same
    from lynxstop.calibration.units import check_disjoint
    from lynxstop.collect.storage import DataSet
    from lynxstop.evaluate.outcome import summarize
    from lynxstop.evaluate.replay import replay, score_cues

    loaded = Bundle.load(bundle)
    if not loaded.policy.levels:
        raise StepError(f"{bundle} is not calibrated.", hint="Run `lynxstop calibrate` first.")
    recorded = DataSet.open(data)
    require_same(loaded.policy.fingerprint, recorded.meta.fingerprint, f"The bundle {bundle}")
    check_disjoint(np.array(loaded.training_scores().problems), np.array(recorded.problem_ids))
    scores = score_cues(recorded, loaded.probe)
    policy = loaded.policy.stop_policy()
    rows: list[dict[str, Any]] = []
    for level in loaded.policy.pooled:
        summary = summarize(list(replay(recorded, scores, policy, level.threshold)))
        rows.append(
            {"risk": level.risk, "confidence": level.confidence, "loss": level.loss}
            | asdict(summary)
            | {"share_of_oracle": summary.share_of_oracle}
        )
    if csv is not None:
        _write_csv(csv, rows)
    if json:
        _output.emit({"bundle": str(bundle), "data": str(data), "levels": rows})
        return
    shown = _output.table(
        f"{rows[0]['n_problems']} recorded traces",
        *("risk", "accuracy full", "early", "saved", "of oracle", "exits", "disagree", "harm", "help"),
    )
    for row in rows:
        shown.add_row(
            f"{row['risk']:g}",
            _percent(row["accuracy_full"]),
            _percent(row["accuracy_early"]),
            _percent(row["saved"]),
            _percent(row["share_of_oracle"]),
            f"{row['exits']}",
            f"{row['disagree']} ({row['disagree'] / row['n_problems']:.1%})",
            f"{row['harm']}",
            f"{row['help']}",
        )
    _output.console.print(shown)


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
