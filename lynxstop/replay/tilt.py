"""The tilt of a policy on recorded traces: applied as a session does, and chosen on the training split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.losses import Loss
from lynxstop.calibration.traces import TraceTable
from lynxstop.core.first_exit import exit_steps, sums_at
from lynxstop.core.rule import tilted
from lynxstop.replay.exits import ExitTable

TILTS = tuple(step / 40 for step in range(13))
"""What is tried, in standard deviations of the scores, evenly spaced."""
RISKS = tuple(np.geomspace(0.005, 0.05, 24).tolist())
"""Levels whose mean saving decides: many, since at each the saving is a rough function of the tilt."""
_LEAST = 100
"""Fewer traces say little at these risks: nothing is tilted then."""


def lowered(scores: NDArray[np.float32], exits: ExitTable, tilt: float) -> NDArray[np.float32]:
    """Tilt the scores of a cue table at its eligible points; shape (cues,), as `scores`."""
    if not tilt:
        return scores
    changed = scores.copy()
    changed[exits.rows] = tilted(scores[exits.rows], exits.earlier, tilt)
    return changed


def choose_tilt(scores: NDArray[np.float32], exits: ExitTable, loss: Loss) -> float:
    """Choose the tilt that saves most on the training split.

    Savings are those of the most lenient threshold down to which the observed risk stays within a level,
    averaged over the levels of `RISKS`. The best tilt is the middle one of the three neighbours that save
    most, which chance moves less than a single one.

    Parameters
    ----------
    scores : float32, shape (cues,)
        By a probe that has not seen the problem; NaN where there is none.
    exits : ExitTable
        Eligible points of the training traces.
    loss : Loss

    Returns
    -------
    float
        In units of the score; 0 when no tilt saves more, or there is too little to tell.
    """
    known = replace(exits, rows=np.arange(len(exits.rows)))
    own = scores[exits.rows]
    if len(exits.trace_ids) < _LEAST or np.isnan(own).all():
        return 0.0
    tried = [float(np.float32(tilt * np.nanstd(own))) for tilt in TILTS]
    worth = np.array([_worth(known.scored(lowered(own, known, tilt), loss)) for tilt in tried])
    if worth.max() <= worth[0]:
        return 0.0
    return tried[1 + int(np.argmax(worth[:-2] + worth[1:-1] + worth[2:]))]


def _worth(table: TraceTable) -> float:
    """Mean share of thinking tokens saved over `RISKS`."""
    assert table.tokens is not None
    assert table.full_tokens is not None
    found = exit_steps(table.owners, table.scores)
    limits = np.unique(found.low)
    saved = sums_at(found, (table.full_tokens[found.trace] - table.tokens[found.event]).astype(float), limits)
    risk = sums_at(found, table.charged(1.0)[found.event], limits)[::-1] / table.traces
    walked = [int(np.argmax(np.append(risk, 2.0) > level)) for level in RISKS]
    gains = np.concatenate([[0.0], saved[::-1]])
    return float(np.mean(gains[walked])) / max(float(table.full_tokens.sum()), 1.0)
