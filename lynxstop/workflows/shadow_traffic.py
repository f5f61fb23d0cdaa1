"""Recorded shadow traffic: what exits would have saved, and certificates for the bundle that serves."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lynxstop.artifacts import atomic
from lynxstop.artifacts.bundle import SCORES, Bundle
from lynxstop.artifacts.served import served_as
from lynxstop.calibration.losses import charge
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import Calibration, calibrate
from lynxstop.calibration.tables import read_table
from lynxstop.calibration.traces import TraceTable
from lynxstop.core.first_exit import exit_steps, first_exits
from lynxstop.errors import ConfigError, DataError, FingerprintError
from lynxstop.monitor.interval import confidence_sequence
from lynxstop.recordings.shadow_files import LEFT_OUT, SERVED, TABLE
from lynxstop.workflows.calibrate_bundle import THRESHOLDS, digests_of

LOSS = "disagree"
"""What the proxy writes into the table."""


@dataclass(frozen=True, eq=False)
class ShadowTraffic:
    """Shadow traffic that the proxy has recorded.

    Parameters
    ----------
    folder : Path
    table : TraceTable
        One trace per request; the problem is the digest of its messages.
    models : tuple of str
    forced_tokens : int
        What the forced answers made the server generate.
    left_out : dict from str to int
        How many requests are not in the table, by reason: see `lynxstop.proxy.shadow`.
    """

    folder: Path
    table: TraceTable
    models: tuple[str, ...]
    forced_tokens: int
    left_out: dict[str, int]


def read_shadow(folder: Path, *, by: str | None = None, subgroups: Sequence[str] = ()) -> ShadowTraffic:
    """Read a folder that `lynxstop proxy --record` has written; an incomplete last line is left out.

    Raises
    ------
    DataError
        When it holds no table, or one that cannot be read.
    """
    path = folder / TABLE
    try:
        content = path.read_text(encoding="utf-8")
    except PermissionError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}.",
            hint="Only the user that the proxy runs as can read what it records: run this as that user.",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{folder} holds no shadow traffic.",
            hint="Record it with `lynxstop proxy --record` in shadow mode.",
        ) from error
    if not content.endswith("\n"):
        raise DataError(
            f"The last line of {path} is incomplete: is the proxy still writing, or was it killed?",
            hint="Remove all rows of that request from the file, or wait.",
        )
    table = read_table(path, by=by, subgroups=subgroups)
    try:
        rows = list(csv.DictReader(content.splitlines()))
        forced = sum(int(row.get("answer_tokens") or 0) for row in rows)
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}.", hint="Remove the rows of that request.") from error
    models = tuple(sorted({row.get("model") or "" for row in rows}))
    return ShadowTraffic(folder, table, models, forced, _left_out(folder))


def _left_out(folder: Path) -> dict[str, int]:
    try:
        return dict(Counter((folder / LEFT_OUT).read_text(encoding="utf-8").split()))
    except (OSError, UnicodeDecodeError):
        return {}


def shadow_report(traffic: ShadowTraffic, thresholds: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Say what exits would have done; nothing is certified.

    Parameters
    ----------
    traffic : ShadowTraffic
    thresholds : sequence of (risk, threshold)

    Returns
    -------
    dict
        Counts, what the forced answers cost, and per threshold the share of requests that exit, the share of
        thinking tokens saved, and the observed loss with its 95% confidence sequence over requests.
    """
    table = traffic.table
    steps = exit_steps(table.owners, table.scores)
    losses = charge(table.losses)
    rows = []
    for risk, threshold in thresholds:
        events = first_exits(steps, table.traces, threshold)
        taken = events[events >= 0]
        lost = float(losses[taken].sum())
        lower, upper = confidence_sequence(lost, table.traces)
        rows.append(
            {
                "risk": risk,
                "threshold": threshold,
                "exits": len(taken) / table.traces,
                "saved": _saved(table, events),
                "lost": lost,
                "observed": lost / table.traces,
                "lower": lower,
                "upper": upper,
            }
        )
    thinking = 0 if table.full_tokens is None else int(table.full_tokens.sum())
    return {
        "requests": table.traces,
        "left_out": traffic.left_out,
        "prompts": len(np.unique(table.problem_ids)),
        "models": list(traffic.models),
        "forced_answers": len(table.scores),
        "unknown": table.unknown,
        "forced_tokens": traffic.forced_tokens,
        "thinking_tokens": thinking,
        "levels": rows,
    }


def calibrate_from_shadow(bundle: Bundle, traffic: ShadowTraffic, options: CalibrationOptions) -> Calibration:
    """Certify levels of a bundle on its own shadow traffic; nothing is written.

    Raises
    ------
    ConfigError
        On another loss than shadow traffic measures.
    FingerprintError
        When the traffic was recorded with another bundle, or otherwise than it is served.
    DataError
        When the traffic is of several models.
    """
    policy = bundle.policy
    if options.loss != LOSS:
        raise ConfigError(f"Shadow traffic measures the loss {LOSS!r}.", hint="Leave out --loss.")
    if _served(traffic.folder) != json.loads(json.dumps(served_as(policy))):
        raise FingerprintError(
            f"{traffic.folder} was not recorded with the bundle {bundle.path}, as it is served now.",
            hint="Give that bundle, or record again with this one.",
        )
    if len(traffic.models) > 1:
        raise DataError(
            f"{traffic.folder} holds requests for several models: {', '.join(traffic.models)}.",
            hint="Record each model into a folder of its own.",
        )
    training = bundle.training_scores()
    return calibrate(
        traffic.table,
        options,
        train_scores=training.scores[np.isfinite(training.scores)],
        train_problems=training.problems,
        digests=digests_of(policy, atomic.sha256(traffic.folder / TABLE))
        | {THRESHOLDS: policy.files.get(SCORES, "")},
        fingerprint=served_as(policy),
    )


def _served(folder: Path) -> Any:
    try:
        return json.loads((folder / SERVED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _saved(table: TraceTable, events: Any) -> float | None:
    if table.tokens is None or table.full_tokens is None or not table.full_tokens.sum():
        return None
    taken = np.flatnonzero(events >= 0)
    saved = (table.full_tokens[taken] - table.tokens[events[taken]]).sum()
    return float(saved / table.full_tokens.sum())
