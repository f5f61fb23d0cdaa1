"""Outcomes of requests under full thinking and early exit, and their summary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lynxstop.errors import DataError
from lynxstop.notebook import table_html

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Requests, each run both ways; all arrays of shape (requests,).

    Attributes
    ----------
    exits : array of bool
    full, gross, net, oracle : array
        Thinking tokens of the full trace; up to the exit; with the tokens of trial answers; and up to the
        first cue whose exit answer agrees with the full one, or to the end.
    disagree : array of bool
        An exit was taken and its answer is not known to equal the full one.
    right_full, right_early : array
        1 or 0; NaN where there is no gold answer, or grading came to no verdict.
    trials : array
        Trial answers taken.
    """

    exits: NDArray[np.bool_]
    full: Floats
    gross: Floats
    net: Floats
    oracle: Floats
    disagree: NDArray[np.bool_]
    right_full: Floats
    right_early: Floats
    trials: Floats

    @property
    def graded(self) -> NDArray[np.bool_]:
        """Requests with a verdict on both answers."""
        graded: NDArray[np.bool_] = np.isfinite(self.right_full) & np.isfinite(self.right_early)
        return graded

    def _repr_html_(self) -> str:
        found = summarize(self)

        def share(value: float | None) -> str:
            return "unknown" if value is None else f"{value:.1%}"

        rows = [
            ("accuracy", share(found.accuracy_full), share(found.accuracy_early)),
            ("thinking tokens", f"{found.thinking_tokens_full:,}", f"{found.thinking_tokens_early:,}"),
            ("saved", "", f"{found.saved:.1%} (oracle {found.oracle_saved:.1%})"),
            ("stopped early", "", f"{found.exits} of {found.n_problems}"),
            ("answers that differ", "", f"{found.disagree} of {found.n_problems}"),
            ("harm, help", "", f"{found.harm}, {found.help}"),
        ]
        return table_html("Outcomes", ("", "full thinking", "early exit"), rows)


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and shares over a set of outcomes; accuracies are None without gold answers."""

    n_problems: int
    accuracy_full: float | None
    accuracy_early: float | None
    thinking_tokens_full: int
    thinking_tokens_early: int
    saved: float
    """Share of the thinking tokens saved."""
    oracle_saved: float
    """Share that the oracle saves: exit at the first cue whose answer agrees."""
    exits: int
    disagree: int
    harm: int
    help: int
    ungraded: int

    @property
    def share_of_oracle(self) -> float:
        """Saved tokens as a share of what the oracle saves."""
        return self.saved / self.oracle_saved if self.oracle_saved else 0.0


def summarize(found: Outcomes) -> Summary:
    """Summarise outcomes.

    Raises
    ------
    DataError
        When there are none.
    """
    if not len(found.full):
        raise DataError("There are no requests to summarise.")
    graded = found.graded
    full, early = found.right_full[graded], found.right_early[graded]
    total = float(found.full.sum())
    return Summary(
        n_problems=len(found.full),
        accuracy_full=float(full.mean()) if len(full) else None,
        accuracy_early=float(early.mean()) if len(early) else None,
        thinking_tokens_full=int(total),
        thinking_tokens_early=int(found.gross.sum()),
        saved=1 - float(found.gross.sum()) / total if total else 0.0,
        oracle_saved=1 - float(found.oracle.sum()) / total if total else 0.0,
        exits=int(found.exits.sum()),
        disagree=int(found.disagree.sum()),
        harm=int(((full == 1) & (early == 0)).sum()),
        help=int(((full == 0) & (early == 1)).sum()),
        ungraded=int((~graded).sum()),
    )
