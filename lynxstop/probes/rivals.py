"""Cheaper signals: what a probe has to beat, each alone and under the same cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.card import RIVALS
from lynxstop.extras import need

Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]


def rival_signals(cues: Any) -> dict[str, NDArray[np.float64]]:
    """Read the rivals from a cue table, each of shape (cues,); missing values are NaN."""
    signals = {
        name: cues[name].to_numpy(zero_copy_only=False).astype(np.float64)
        for name in RIVALS
        if name != "agreement_run"
    }
    signals["agreement_run"] = agreement_runs(cues["trace_id"].to_pylist(), cues["trial_answer"].to_pylist())
    return {name: signals[name] for name in RIVALS}


def agreement_runs(traces: Sequence[str], answers: Sequence[str | None]) -> NDArray[np.float64]:
    """Length of the run of equal trial answers that ends at each cue; 0 where there is no answer."""
    runs: list[float] = []
    before: tuple[str, str | None] = ("", None)
    for trace, answer in zip(traces, answers, strict=True):
        runs.append(0.0 if not answer else (runs[-1] + 1 if before == (trace, answer) else 1.0))
        before = (trace, answer)
    return np.array(runs)


def alone(signal: NDArray[np.float64], target: NDArray[np.bool_], folds: Folds) -> float:
    """AUC of one signal over all cues, as a threshold on it would have it.

    Only the sign is learnt, out of fold, by a one-feature logistic regression: its slope and intercept differ
    between folds and would only blur the order of the pooled scores.
    """
    linear, metrics = need("sklearn.linear_model", "calibrate"), need("sklearn.metrics", "calibrate")
    values = np.nan_to_num(signal, nan=0.0, posinf=1e6, neginf=-1e6)[:, None]
    scores = np.empty(len(values))
    for train, test in folds:
        scale = values[train].std() or 1.0
        model = linear.LogisticRegression().fit(values[train] / scale, target[train])
        scores[test] = np.sign(model.coef_[0, 0]) * values[test, 0]
    return float(metrics.roc_auc_score(target, scores))
