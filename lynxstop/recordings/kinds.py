"""Kinds of the decision points in a recorded cue table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.points import CUE


def of_kind(table: Any, points: int) -> NDArray[np.bool_]:
    """Rows of an Arrow cue table that are of one of the kinds `points`; without a kind, all are cues."""
    if "kind" not in table.column_names:
        return np.full(len(table), bool(points & CUE))
    return np.asarray((table["kind"].to_numpy() & points) > 0, bool)
