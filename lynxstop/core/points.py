"""Decision points: where in a stream of tokens an exit may be decided."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.surface import INERT, Surfaces

CUE, BOUNDARY, INTERVAL = 1, 2, 4
"""Kinds, as bits: a cue; a token that ends a sentence, a clause or a line; every so many thinking tokens."""

ALL = CUE | BOUNDARY | INTERVAL

_ENDS = frozenset(b".?!;:,\n")
_BLANK = frozenset(b" \t\r")


def boundary_tokens(surfaces: Surfaces) -> frozenset[int]:
    """Ids of the tokens whose text, blanks aside, ends with punctuation or a line break.

    A point or comma inside a number that is split over tokens counts too: what comes next is not known yet.
    """
    found = set()
    for token in range(len(surfaces)):
        for symbol in reversed(surfaces[token]):
            if symbol not in _BLANK:
                if symbol < INERT and symbol in _ENDS:
                    found.add(token)
                break
    return frozenset(found)


def of_kind(table: Any, points: int) -> NDArray[np.bool_]:
    """Rows of a cue table that are of one of the kinds `points`; a table without kinds holds cues only."""
    if "kind" not in table.column_names:
        return np.full(len(table), bool(points & CUE))
    return np.asarray((table["kind"].to_numpy() & points) > 0, bool)
