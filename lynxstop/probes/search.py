"""Scores of cues by probes that have not seen their problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.errors import ConfigError, DataError
from lynxstop.extras import need
from lynxstop.probes.rivals import Folds

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Values of `ProbeTrainer.C` that are tried by default."""


def split(truth: NDArray[np.bool_], problems: NDArray[Any], folds: int, seed: int) -> Folds:
    """Part cues into folds of whole problems with about equal shares of both outcomes.

    Raises
    ------
    ConfigError
        With fewer than two folds.
    DataError
        When there are too few problems of an outcome.
    """
    if folds < 2:
        raise ConfigError("Cross-validation needs at least 2 folds.")
    if not len(truth):
        raise DataError(
            "The traces hold no cue at which a forced answer could be judged.",
            hint="Check [thinking] and [cues] in the recipe; `lynxstop recipe MODEL --check` tries them out.",
        )
    least = min((len(set(problems[truth == side].tolist())) for side in (False, True)), default=0)
    if least < folds:
        good = int(truth.sum())
        raise DataError(
            f"Of {len(truth)} answers forced at cues, {good} come out as wanted. Both outcomes have to "
            f"occur in at least {folds} problems; the rarer one occurs in {least}.",
            hint="Give more or harder problems, and check [sampling] in the recipe."
            if 2 * good > len(truth)
            else "Give more or easier problems, and check [exit] and [sampling] in the recipe.",
        )
    splitter = need("sklearn.model_selection", "calibrate").StratifiedGroupKFold
    parts = splitter(folds, shuffle=True, random_state=seed).split(truth, truth, problems)
    return [(train.astype(np.int64), test.astype(np.int64)) for train, test in parts]


def out_of_fold(
    estimator: Any, features: NDArray[np.float32], truth: NDArray[np.bool_], parts: Folds
) -> NDArray[np.float32]:
    """Logits of every cue by the exported probe of its fold, float32, shape (cues,)."""
    from lynxstop.probes.export import export_probe

    base = need("sklearn.base", "calibrate")
    scores = np.empty(len(truth), np.float32)
    for train, test in parts:
        fitted = base.clone(estimator).fit(features[train], truth[train])
        scores[test] = export_probe(fitted, (0,)).score(features[test])
    return scores


def by_penalty(
    trainer: Any,
    penalties: Sequence[float],
    features: NDArray[np.float32],
    truth: NDArray[np.bool_],
    parts: Folds,
    *,
    overwrite: bool = False,
) -> list[NDArray[np.float32]]:
    """Logits out of fold, one array for each penalty of a logistic trainer.

    Parameters
    ----------
    trainer : ProbeTrainer
        Its own penalty is not used.
    penalties : sequence of float
    features : ndarray
        float32, shape (cues, width).
    truth : ndarray
        Shape (cues,).
    parts : Folds
    overwrite : bool
        Whether the features may be destroyed.
    """
    from lynxstop.probes.fitting import row_weights

    settings = trainer.settings(features.size, penalties[0])
    if settings.kind != "logistic" or settings.backend != "torch":
        base = need("sklearn.base", "calibrate")
        return [
            out_of_fold(base.clone(trainer).set_params(C=penalty), features, truth, parts)
            for penalty in penalties
        ]
    from lynxstop.probes import torch_fitting

    classes, labels = np.unique(truth, return_inverse=True)
    rows = [row_weights(trainer.class_weight, "logistic", classes, labels[train]) for train, _ in parts]
    return torch_fitting.out_of_fold(features, labels, rows, parts, penalties, settings, overwrite=overwrite)


def area(truth: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """Area under the ROC curve."""
    return float(need("sklearn.metrics", "calibrate").roc_auc_score(truth, scores))


def areas(truth: NDArray[np.bool_], scores: NDArray[np.float32], parts: Folds) -> list[float]:
    """Area under the ROC curve of every fold."""
    return [area(truth[test], scores[test]) for _, test in parts]
