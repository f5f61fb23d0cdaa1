"""Thresholds that are fixed before the calibration data are seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import DataError

POINTS = 300
"""Number of quantiles; more cost no confidence in a fixed sequence, and bring little."""


def quantile_grid(train: TraceTable | NDArray[np.float32]) -> NDArray[np.float32]:
    """Choose thresholds from training scores, strictly descending.

    Half of them are quantiles of the highest score per trace, which spaces them evenly in the share of
    requests that exit; half are quantiles of all scores, which reach the lenient end. A plain array of scores
    has no traces: all are quantiles of the scores, half of them in the upper tenth.

    Raises
    ------
    DataError
        Without any finite training score.
    """
    if isinstance(train, TraceTable):
        maxima = train.maxima()
        parts = [
            _quantiles(maxima[np.isfinite(maxima)], 0.0),
            _quantiles(train.scores, 0.0),
        ]
    else:
        scores = np.asarray(train, dtype=np.float32).ravel()
        parts = [_quantiles(scores, 0.9), _quantiles(scores, 0.0)]
    return np.unique(np.concatenate(parts))[::-1]


def start_index(train: TraceTable, grid: NDArray[np.float32], units: int, alpha: float, delta: float) -> int:
    """Return where a selective sequence starts: enough exits to reject are expected from the training traces.

    The first threshold at which `units` requests are expected to bring three times the exits that zero losses
    need, ln(delta) / ln(1 - alpha); the most lenient one when none does.
    """
    share = 1.0 - np.searchsorted(np.sort(train.maxima()), grid, side="right") / train.traces
    wanted = 3.0 * np.log(delta) / np.log1p(-alpha)
    enough = np.flatnonzero(units * share >= wanted)
    return int(enough[0]) if len(enough) else len(grid) - 1


def _quantiles(scores: NDArray[np.float32], low: float) -> NDArray[np.float32]:
    if not len(scores) or not np.isfinite(scores).all():
        raise DataError(
            "The training scores are empty or not finite, so no thresholds can be placed.",
            hint="Give the scores of the training split, or none to test every float32 threshold.",
        )
    return np.quantile(scores, np.linspace(low, 1.0, POINTS // 2), method="inverted_cdf").astype(np.float32)
