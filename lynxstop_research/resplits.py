"""Does the promise hold on real traces? Split them again and again: certify on one part, look at the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.case import Case
from lynxstop.calibration.methods import method_named
from lynxstop.calibration.traces import TraceTable
from lynxstop.calibration.units import Units, as_units
from lynxstop.errors import DataError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Resplits:
    """What the re-splits gave; arrays of shape (splits,).

    `risk`, `exits` and `saved` are shares measured on the problems that were not calibrated on; `losses` are
    counts among `rest` of them.
    """

    alpha: float
    risk: FloatArray
    losses: FloatArray
    exits: FloatArray
    saved: FloatArray
    refused: NDArray[np.bool_]
    rest: int

    @property
    def violations(self) -> int:
        """Splits whose risk on the rest exceeds alpha."""
        return int((self.risk > self.alpha).sum())


def resplit(
    table: TraceTable,
    *,
    alpha: float,
    delta: float = 0.05,
    method: str = "ltt",
    calibrate_on: int = 1000,
    splits: int = 200,
    grid: NDArray[np.float32] | None = None,
    unknown_loss: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Resplits:
    """Certify on random problems, and measure the risk on all others.

    The rest is itself a sample, so its risk scatters around the true one: a violation rate a little above
    `delta` is noise as long as an exact binomial test says so.

    Parameters
    ----------
    table : TraceTable
        Traces that neither the probe nor `grid` has seen.
    alpha, delta : float
        The promise.
    method : str
        One of `METHODS`.
    calibrate_on : int
        Problems that are calibrated on.
    splits : int
    grid : array of float32, strictly descending, optional
        Thresholds fixed on training data.
    unknown_loss : float
        Loss of an exit answer that could not be judged.
    seed : int

    Raises
    ------
    DataError
        When there are not at least twice as many problems as are calibrated on.
    """
    whole = as_units(table, "one", seed)
    if whole.count < 2 * calibrate_on:
        raise DataError(
            f"Re-splitting {calibrate_on} problems needs {2 * calibrate_on}; there are {whole.count}.",
            hint="Record more, or calibrate on fewer.",
        )
    certify = method_named(method).certify
    rng = np.random.default_rng(seed)
    rows: list[tuple[float, float, float, float, bool]] = []
    for done in range(splits):
        order = rng.permutation(whole.count)
        parts = (order[:calibrate_on], order[calibrate_on:])
        cases = [_case(whole.table.select(np.sort(part)), unknown_loss, grid, seed) for part in parts]
        verdict = certify(cases[0], alpha, delta)
        curve = cases[1].at(np.array([verdict.threshold], dtype=np.float32))
        full = cases[1].units.table.full_tokens
        total = float(full.sum()) if full is not None else 0.0
        losses, n = float(curve.losses[0]), cases[1].units.count
        saved = float(curve.saved[0]) / total if total else 0.0
        rows.append((losses / n, losses, float(curve.exits[0]) / n, saved, verdict.refused))
        if progress is not None:
            progress(done + 1)
    risk, lost, exits, saved_share, refused = (np.array(column) for column in zip(*rows, strict=True))
    return Resplits(alpha, risk, lost, exits, saved_share, refused, whole.count - calibrate_on)


def _case(table: TraceTable, unknown_loss: float, grid: NDArray[np.float32] | None, seed: int) -> Case:
    units: Units = as_units(table, "one", seed)
    return Case(units, units.table.charged(unknown_loss), grid)
