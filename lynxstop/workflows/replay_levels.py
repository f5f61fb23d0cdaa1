"""What a bundle's certified levels would have done on recorded traces that it has not seen."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.fingerprint import require_same
from lynxstop.calibration import repeats
from lynxstop.calibration.units import check_disjoint
from lynxstop.core.conditions import Conditions
from lynxstop.recordings.storage import Recording
from lynxstop.replay.exits import read_exits
from lynxstop.replay.outcomes import summarize
from lynxstop.replay.serving import scores_of


def check_unseen(bundle: Bundle, data: Recording) -> None:
    """Refuse traces of another model, or of problems that the bundle was trained on.

    Raises
    ------
    FingerprintError, DataError
    """
    require_same(bundle.policy.fingerprint, data.meta.fingerprint, f"The bundle {bundle.path}")
    training = bundle.training_scores()
    check_disjoint(np.array(training.problems), np.array(data.problem_ids))
    exits = read_exits(data)
    repeats.check_unseen(training.prompts, exits.problem_ids, exits.prompts)


def replay_levels(bundle: Bundle, data: Recording) -> list[dict[str, Any]]:
    """Replay every level of all requests, at the sampling that the traces were recorded at.

    Returns
    -------
    list of dict
        By level, as in the policy: `risk`, `confidence`, `loss`, `lynxstop.replay.outcomes.Summary`'s fields
        and `share_of_oracle`.

    Raises
    ------
    DataError
        When there are no traces.
    """
    policy, meta = bundle.policy.stop_policy(), data.meta
    served = Conditions(meta.temperature, meta.top_p, meta.top_k, meta.max_tokens)
    exits = read_exits(data, policy)
    scores = scores_of(bundle, data)[exits.rows]
    rows = []
    for pooled in bundle.policy.pooled:
        level = bundle.policy.certified(policy.level(pooled.risk, None, served)) or pooled
        summary = summarize(exits.at(scores, level.threshold))
        rows.append(
            {"risk": level.risk, "confidence": level.confidence, "loss": level.loss}
            | asdict(summary)
            | {"share_of_oracle": summary.share_of_oracle}
        )
    return rows
