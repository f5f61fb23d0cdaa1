"""First Finish Search (2505.18149): n samples run, the first to finish answers, the rest are cancelled."""

from __future__ import annotations

from typing import Any

import numpy as np

from lynxstop.calibration.bounds import binomial_p, clopper_pearson_upper
from lynxstop.grading.graders import GRADERS, same_of
from lynxstop.grading.grading import Same
from lynxstop.recordings.storage import Recording
from lynxstop.replay.outcomes import Outcomes
from lynxstop.replay.parts import DataPart


def first_finish(
    data: Recording, parts: dict[str, DataPart], risk: float, delta: float
) -> tuple[dict[str, Any], Outcomes] | None:
    """Measure first-finish against the first sample.

    None when a problem has one sample only, and when answers were compared by a function of the user's, which
    no recording names so that it is run.
    As many samples run as every problem has: a problem with fewer would pass for one that agrees with itself.
    There is no threshold to choose: one policy is tested once. All samples' tokens are charged.
    """
    count, _ = data.samples
    if count < 2 or data.meta.grader not in GRADERS:
        return None
    same = same_of(GRADERS[data.meta.grader])
    tried = _outcomes(parts["calibration"], count, same)
    losses, n = int(tried.disagree.sum()), len(tried.full)
    return {
        "rule": "first-finish",
        "paper": "2505.18149",
        "needs": f"{count} samples",
        "certified": bool(binomial_p(losses, n, risk) <= delta),
        "threshold": float("nan"),
        "calibration_losses": losses,
        "calibration_problems": n,
        "risk_bound": float(clopper_pearson_upper(losses, n, delta)),
    }, _outcomes(parts["test"], count, same)


def _outcomes(part: DataPart, count: int, same_answer: Same) -> Outcomes:
    groups: dict[str, list[dict[str, Any]]] = {}
    columns = ["problem_id", "sample", "thinking_tokens", "full_answer", "full_status", "full_right"]
    for row in part.traces().select(columns).to_pylist():
        groups.setdefault(row["problem_id"], []).append(row)
    rows = []
    for group in groups.values():
        samples = sorted(group, key=lambda row: int(row["sample"]))[:count]
        first, winner = samples[0], min(samples, key=lambda row: int(row["thinking_tokens"]))
        parsed = "unparsed" not in (first["full_status"], winner["full_status"])
        same = first is winner or (
            parsed and same_answer(first["full_answer"], winner["full_answer"]) is True
        )
        full, early = first["thinking_tokens"], winner["thinking_tokens"]
        verdicts = [np.nan if row["full_right"] is None else row["full_right"] for row in (first, winner)]
        rows.append((first is not winner, full, early, early * count, early, not same, *verdicts, 0))
    values = np.array(rows, np.float64).T
    exits, full, gross, net, oracle, disagree, right_full, right_early, trials = values
    return Outcomes(exits == 1, full, gross, net, oracle, disagree == 1, right_full, right_early, trials)
