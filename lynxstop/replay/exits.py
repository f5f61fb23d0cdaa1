"""Recorded traces as columns: what an exit at each eligible decision point would have done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.losses import Loss, Verdicts
from lynxstop.calibration.traces import TraceTable
from lynxstop.core.first_exit import exit_steps, first_exits
from lynxstop.core.points import CUE
from lynxstop.core.policy import StopPolicy
from lynxstop.core.rule import eligible_mask
from lynxstop.recordings.kinds import of_kind
from lynxstop.replay.outcomes import Outcomes
from lynxstop.replay.parts import Recorded
from lynxstop.replay.thinned import chosen_already
from lynxstop.rules import Point

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ExitTable:
    """The forced exits of recorded traces at their eligible decision points, in the order of the recording.

    A score per point turns it into a `TraceTable` to certify on (`scored`), a threshold as well into
    `Outcomes` (`at`).

    Attributes
    ----------
    trace_ids, problem_ids : array of str, shape (traces,)
    full_tokens : array of int64, shape (traces,)
        Thinking tokens of the full trace.
    full_right : array of float64, shape (traces,)
        Whether the full answer is right: 1, 0, or NaN without gold or verdict.
    full_parsed : array of bool, shape (traces,)
    owners : array of int64, shape (points,)
        Number of the trace, ascending.
    tokens : array of int64, shape (points,)
        Thinking tokens of an exit here.
    agrees, right : array of float64, shape (points,)
        As recorded for the exit's answer; NaN for null.
    parsed : array of bool, shape (points,)
        Whether the exit's answer was extracted, and compared in time.
    cue : array of bool, shape (points,)
        Whether the point is a cue.
    rows : array of int64, shape (points,)
        Rows of the recorded cue table.
    prompts : array of str, shape (traces,), optional
        Digests of the prompts, empty where there are none.
    points : sequence of sequences of Point, shape (traces,)
        The points as rules see them; empty unless made by `lynxstop.replay.points.read_points`.
    """

    trace_ids: NDArray[np.str_]
    problem_ids: NDArray[np.str_]
    full_tokens: NDArray[np.int64]
    full_right: Floats
    full_parsed: Bools
    owners: NDArray[np.int64]
    tokens: NDArray[np.int64]
    agrees: Floats
    right: Floats
    parsed: Bools
    cue: Bools
    rows: NDArray[np.int64]
    prompts: NDArray[np.str_] | None = None
    points: Sequence[Sequence[Point]] = ()

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Points per trace, shape (traces,)."""
        return np.bincount(self.owners, minlength=len(self.trace_ids))

    @property
    def earlier(self) -> NDArray[np.int64]:
        """Eligible points of the trace before each point, shape (points,)."""
        return np.arange(len(self.owners)) - np.searchsorted(self.owners, self.owners)

    @property
    def verdicts(self) -> Verdicts:
        """What is known of the exits' answers: nothing of one that was not parsed."""
        judged = self.parsed & self.full_parsed[self.owners]
        return Verdicts(
            agrees=np.where(judged, self.agrees, np.nan),
            right=np.where(self.parsed, self.right, np.nan),
            full_right=self.full_right[self.owners],
        )

    def select(self, traces: Bools) -> Self:
        """Return some of the traces, in the same order; `traces` has shape (traces,)."""
        points = traces[self.owners]
        return replace(
            self,
            **{name: getattr(self, name)[traces] for name in _OF_TRACES},
            **{name: getattr(self, name)[points] for name in _OF_POINTS},
            owners=(np.cumsum(traces) - 1)[self.owners[points]],
            prompts=None if self.prompts is None else self.prompts[traces],
            points=[self.points[i] for i in np.flatnonzero(traces)] if self.points else (),
        )

    def scored(
        self,
        scores: NDArray[np.floating],
        loss: Loss,
        groups: Sequence[str] | None = None,
        subgroups: NDArray[np.str_] | None = None,
    ) -> TraceTable:
        """Return the table that is calibrated; points with a score of NaN are left out.

        Parameters
        ----------
        scores : shape (points,)
        loss : Loss
        groups : sequence of str, shape (traces,), optional
        subgroups : array of str, shape (traces, columns), optional
            As `TraceTable` has them.
        """
        known = ~np.isnan(scores)
        return TraceTable.from_arrays(
            trace_ids=self.trace_ids,
            problem_ids=self.problem_ids,
            lengths=np.bincount(self.owners[known], minlength=len(self.trace_ids)),
            scores=scores[known],
            losses=loss.at_exit(self.verdicts)[known],
            tokens=self.tokens[known],
            full_tokens=self.full_tokens,
            groups=groups,
            prompts=self.prompts,
            subgroups=subgroups,
        )

    def at(
        self, scores: NDArray[np.floating], threshold: float, costs: NDArray[np.int64] | None = None
    ) -> Outcomes:
        """Exit every trace at its first point whose score exceeds the threshold.

        Parameters
        ----------
        scores : shape (points,)
            NaN never exits.
        threshold : float
            At inf the rule is off: no trial answer is taken either.
        costs : int64, shape (points,), optional
            Tokens of the trial answers that the score took; those up to the exit are paid.
        """
        traces = len(self.trace_ids)
        hit = first_exits(exit_steps(self.owners, scores), traces, threshold)
        exits = hit >= 0

        def taken(at_exit: NDArray[Any], else_: NDArray[Any]) -> Floats:
            values = else_.astype(np.float64)
            values[exits] = at_exit[hit[exits]]
            return values

        ends = np.where(exits, hit, len(self.owners))
        paid = np.zeros(len(self.owners)) if costs is None or np.isposinf(threshold) else costs * 1.0
        paid[np.arange(len(self.owners)) > ends[self.owners]] = 0.0
        gross = taken(self.tokens, self.full_tokens)
        oracle = self.full_tokens.astype(np.float64)
        good = np.flatnonzero(self.cue & (self.agrees == 1))
        first = good[np.unique(self.owners[good], return_index=True)[1]]
        oracle[self.owners[first]] = self.tokens[first]
        return Outcomes(
            exits=exits,
            full=self.full_tokens.astype(np.float64),
            gross=gross,
            net=gross + np.bincount(self.owners, paid, traces),
            oracle=oracle,
            disagree=taken(self.agrees == 1, np.ones(traces)) == 0,
            right_full=self.full_right,
            right_early=taken(self.right, self.full_right),
            trials=np.bincount(self.owners, paid > 0, traces).astype(np.float64),
        )


_OF_TRACES = ("trace_ids", "problem_ids", "full_tokens", "full_right", "full_parsed")
_OF_POINTS = ("tokens", "agrees", "right", "parsed", "cue", "rows")


def read_exits(data: Recorded, guards: StopPolicy | None = None) -> ExitTable:
    """Read the forced exits of a recorded data set at the points that the guards let exit.

    Parameters
    ----------
    data : Recorded
    guards : StopPolicy, optional
        Its guards and kinds of decision points; without one, all cues.

    Raises
    ------
    DataError
        When the data were recorded under other guards.
    """
    traces, cues = data.traces(), data.cues()
    counts = traces["cues"].to_numpy()
    keep = of_kind(cues, CUE if guards is None else guards.points)
    if guards is not None and not chosen_already(data.meta, guards):
        owners = np.repeat(np.arange(len(traces)), counts)[keep]
        starts = np.searchsorted(owners, np.arange(1, len(traces)))
        positions = np.split(cues["position"].to_numpy()[keep], starts)
        keep[keep] = np.concatenate([eligible_mask(guards, own) for own in positions])
    return exits_at(traces, cues, np.flatnonzero(keep))


def exits_at(traces: Any, cues: Any, rows: NDArray[np.int64]) -> ExitTable:
    """Return the columns of some rows of a cue table, ascending; `traces` and `cues` are Arrow tables."""
    every = np.repeat(np.arange(len(traces)), traces["cues"].to_numpy())
    return ExitTable(
        trace_ids=_texts(traces["trace_id"]),
        problem_ids=_texts(traces["problem_id"]),
        full_tokens=traces["thinking_tokens"].to_numpy(),
        full_right=_truth(traces["full_right"]),
        full_parsed=_texts(traces["full_status"]) == "parsed",
        owners=every[rows],
        tokens=cues["thinking_at_exit"].to_numpy()[rows],
        agrees=_truth(cues["agrees"])[rows],
        right=_truth(cues["right"])[rows],
        parsed=(_texts(cues["trial_status"]) == "parsed")[rows],
        cue=of_kind(cues, CUE)[rows],
        rows=rows,
        prompts=_texts(traces["prompt_sha256"]) if "prompt_sha256" in traces.column_names else None,
    )


def _texts(column: Any) -> NDArray[np.str_]:
    return np.array(["" if value is None else value for value in column.to_pylist()], dtype=np.str_)


def _truth(column: Any) -> Floats:
    """Booleans as floats, null as NaN."""
    return np.array([np.nan if value is None else value for value in column.to_pylist()], dtype=np.float64)
