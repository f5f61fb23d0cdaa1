"""The first exit of one trace, point by point: what array forms and engines are compared with."""

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.rule import passes


def first_exit(scores: NDArray[np.float32], mask: NDArray[np.bool_], threshold: float) -> int:
    """Index of the first eligible point whose score passes, or -1; both arrays have shape (points,)."""
    pairs = enumerate(zip(scores.tolist(), mask.tolist(), strict=True))
    return next((place for place, (score, ready) in pairs if ready and passes(score, threshold)), -1)
