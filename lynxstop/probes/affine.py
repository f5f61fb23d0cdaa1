"""Affine maps that are fitted to features: what is asked for, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Backend = Literal["sklearn", "torch"]
Map = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class FitSettings:
    """How to fit; see `lynxstop.probes.trainer.ProbeTrainer`. `backend` is decided, and so is `C`."""

    kind: str
    C: float
    hidden: tuple[int, ...]
    max_iter: int
    seed: int
    backend: Backend
    device: str | None


class Fitted(NamedTuple):
    """Maps on raw features, float64, of shapes (out, in) and (out,); and the iterations."""

    maps: tuple[Map, ...]
    iterations: int


def fold(means: NDArray[Any], scales: NDArray[Any], maps: Sequence[tuple[Any, Any]]) -> tuple[Map, ...]:
    """Fold a standardiser into the first of the maps that follow it."""
    exact = [(np.asarray(weight, np.float64), np.asarray(bias, np.float64)) for weight, bias in maps]
    weight, bias = exact[0]
    folded = weight / np.asarray(scales, np.float64)
    return (folded, bias - folded @ np.asarray(means, np.float64)), *exact[1:]
