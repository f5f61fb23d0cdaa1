"""Replay: what a bundle's level would have done to recorded full traces.

Nothing before the first exit is altered by stopping, so a full trace replayed offline gives the served
decision exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.probe import Probe
from lynxstop.core.points import of_kind
from lynxstop.core.policy import StopPolicy
from lynxstop.core.rule import eligible_mask, first_exit
from lynxstop.recordings.storage import DataSet
from lynxstop.replay.outcome import Outcome


def score_cues(data: DataSet, probe: Probe) -> NDArray[np.float32]:
    """Score all recorded cues in the order of the cue table; shape (cues,)."""
    return probe.score(data.features(probe.layers))


def replay(
    data: DataSet, scores: NDArray[np.float32], policy: StopPolicy, threshold: float
) -> Iterator[Outcome]:
    """Yield one outcome per recorded trace.

    Parameters
    ----------
    data : DataSet
        Recorded full traces with the forced exit of every cue.
    scores : array of float32, shape (cues,)
        Logits in the order of the cue table.
    policy : StopPolicy
        Its guards decide which cues may exit.
    threshold : float
        Exit at the first eligible cue whose score exceeds it.
    """
    cues = data.cues()
    owner = cues["trace_id"].to_pylist()
    position = cues["position"].to_numpy()
    asked = of_kind(cues, policy.points)
    at_exit = cues["thinking_at_exit"].to_numpy()
    agrees = cues["agrees"].to_pylist()
    right = cues["right"].to_pylist()
    start = 0
    for trace in (
        data.traces().select(["trace_id", "problem_id", "cues", "thinking_tokens", "full_right"]).to_pylist()
    ):
        rows = slice(start, start + trace["cues"])
        start = rows.stop
        assert all(name == trace["trace_id"] for name in owner[rows])
        mask = asked[rows].copy()
        mask[mask] = eligible_mask(policy, position[rows][mask])
        hit = first_exit(scores[rows], mask, threshold)
        ceiling = next((i for i in range(trace["cues"]) if mask[i] and agrees[rows][i]), -1)
        full = trace["thinking_tokens"]
        yield Outcome(
            problem_id=trace["problem_id"],
            right_full=trace["full_right"],
            right_early=trace["full_right"] if hit < 0 else right[rows][hit],
            disagree=hit >= 0 and not agrees[rows][hit],
            exited=hit >= 0,
            tokens_full=full,
            tokens_early=full if hit < 0 else int(at_exit[rows][hit]),
            oracle_tokens=full if ceiling < 0 else int(at_exit[rows][ceiling]),
        )
