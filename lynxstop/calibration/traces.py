"""Recorded traces as ragged arrays: what every calibration method reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lynxstop.calibration.losses import charge
from lynxstop.errors import DataError

_GRAIN = 2.0**-30
_LATER = frozenset({"prompts", "subgroups"})
_LOWEST = np.finfo(np.float32).min


def round_up(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round up to multiples of 2**-30: sums over up to 8 million units are then exact, in any order."""
    rounded: NDArray[np.float64] = np.ceil(losses / _GRAIN) * _GRAIN
    return rounded


@dataclass(frozen=True, eq=False)
class TraceTable:
    """Eligible cue events of full traces, one segment per trace, traces in the order of their ids.

    Build it with `from_arrays`, which checks everything; a trace without cues has an empty segment.

    Attributes
    ----------
    trace_ids, problem_ids : array of str, shape (traces,)
    offsets : array of int64, shape (traces + 1,)
        Events of trace i are `offsets[i]:offsets[i + 1]`.
    scores : array of float32, shape (events,)
    losses : array of float64, shape (events,)
        Loss of an exit at this cue, in [0, 1]; NaN where the answer could not be judged.
    tokens : array of int64, shape (events,), optional
        Thinking tokens of an exit at this cue.
    full_tokens : array of int64, shape (traces,), optional
        Thinking tokens of the full trace.
    groups : array of str, shape (traces,), optional
    prompts : array of str, shape (traces,), optional
        Digests of the prompts, `lynxstop.recordings.prompts.prompt_digest`; empty where one is not known.
    subgroups : array of str, shape (traces, columns), optional
        What each trace is counted under in the tables of subgroups, as "column=value".
    """

    trace_ids: NDArray[np.str_]
    problem_ids: NDArray[np.str_]
    offsets: NDArray[np.int64]
    scores: NDArray[np.float32]
    losses: NDArray[np.float64]
    tokens: NDArray[np.int64] | None = None
    full_tokens: NDArray[np.int64] | None = None
    groups: NDArray[np.str_] | None = None
    prompts: NDArray[np.str_] | None = None
    subgroups: NDArray[np.str_] | None = None

    @classmethod
    def from_arrays(
        cls,
        *,
        problem_ids: Sequence[str] | NDArray[Any],
        lengths: ArrayLike,
        scores: ArrayLike,
        losses: ArrayLike,
        trace_ids: Sequence[str] | NDArray[Any] | None = None,
        tokens: ArrayLike | None = None,
        full_tokens: ArrayLike | None = None,
        groups: Sequence[str] | NDArray[Any] | None = None,
        prompts: Sequence[str] | NDArray[Any] | None = None,
        subgroups: NDArray[np.str_] | None = None,
    ) -> Self:
        """Check and sort plain arrays.

        Parameters
        ----------
        problem_ids : shape (traces,)
        lengths : ints, shape (traces,)
            Events per trace, 0 allowed; `scores`, `losses` and `tokens` are concatenated in this order.
        scores, losses : shape (events,)
        trace_ids : shape (traces,), optional
            The problem ids by default.
        tokens, full_tokens, groups, prompts, subgroups : optional
            As the attributes; tokens come in both forms or in none. Prompts of which none is known are none.

        Raises
        ------
        DataError
            On the first thing that is wrong.
        """
        problems = np.asarray(problem_ids, dtype=np.str_)
        traces = problems if trace_ids is None else np.asarray(trace_ids, dtype=np.str_)
        counts = np.asarray(lengths, dtype=np.int64)
        table = cls(
            trace_ids=traces,
            problem_ids=problems,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            scores=_float32(scores),
            losses=np.asarray(losses, dtype=np.float64),
            tokens=None if tokens is None else np.asarray(tokens, dtype=np.int64),
            full_tokens=None if full_tokens is None else np.asarray(full_tokens, dtype=np.int64),
            groups=None if groups is None else np.asarray(groups, dtype=np.str_),
            prompts=_some(prompts),
            subgroups=subgroups,
        )
        table._check(counts)
        order = np.argsort(table.trace_ids, kind="stable")
        return table.select(order)

    @property
    def traces(self) -> int:
        """Number of traces."""
        return len(self.trace_ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events per trace, shape (traces,)."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """Trace of each event, shape (events,)."""
        return np.repeat(np.arange(self.traces), self.lengths)

    @property
    def unknown(self) -> int:
        """Number of events whose exit answer could not be judged."""
        return int(np.isnan(self.losses).sum())

    def charged(self, unknown_loss: float) -> NDArray[np.float64]:
        """Losses with the unknown ones filled in, rounded up as by `round_up`; shape (events,)."""
        return round_up(charge(self.losses, unknown_loss))

    def maxima(self) -> NDArray[np.float32]:
        """Highest score of each trace, -inf without cues; shape (traces,)."""
        highest = np.full(self.traces, -np.inf, dtype=np.float32)
        np.maximum.at(highest, self.owners, self.scores)
        return highest

    def select(self, rows: NDArray[Any]) -> Self:
        """Return the traces at `rows` (indices or a mask), in this order."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        lengths = self.lengths[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        events = np.repeat(self.offsets[index] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return type(self)(
            trace_ids=self.trace_ids[index],
            problem_ids=self.problem_ids[index],
            offsets=offsets,
            scores=self.scores[events],
            losses=self.losses[events],
            tokens=None if self.tokens is None else self.tokens[events],
            full_tokens=None if self.full_tokens is None else self.full_tokens[index],
            groups=None if self.groups is None else self.groups[index],
            prompts=None if self.prompts is None else self.prompts[index],
            subgroups=None if self.subgroups is None else self.subgroups[index],
        )

    def digest(self) -> str:
        """SHA-256 of the content; the same for the same traces in any order and from any file format."""
        hasher = hashlib.sha256(b"lynxstop.traces.1")
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in _LATER:
                continue  # tables of the time before keep their digest
            hasher.update(f"\0{field.name}\0".encode())
            if value is None:
                continue
            if value.dtype.kind == "U":
                for text in value.ravel().tolist():
                    hasher.update(f"{len(text)}:{text}".encode())
            else:
                if value.dtype.kind == "f":
                    value = np.where(np.isnan(value), value.dtype.type(np.nan), value)
                hasher.update(value.astype(value.dtype.newbyteorder("<")).tobytes())
        return hasher.hexdigest()

    def _check(self, counts: NDArray[np.int64]) -> None:
        n, events = len(self.trace_ids), len(self.scores)
        if n == 0:
            raise DataError("There is no trace to calibrate on.", hint="List traces without cues too.")
        if len(self.problem_ids) != n or len(counts) != n or (counts < 0).any() or counts.sum() != events:
            raise DataError("Trace ids, problem ids, lengths and scores do not describe the same traces.")
        if len(self.losses) != events:
            raise DataError(f"{events} scores but {len(self.losses)} losses.", hint="Give one loss per cue.")
        _check_ids(self.trace_ids, self.problem_ids)
        if not np.isfinite(self.scores).all():
            where = self.trace_ids[self.owners[np.argmin(np.isfinite(self.scores))]]
            raise DataError(
                f"A score of trace {str(where)!r} is NaN, infinite or beyond float32.",
                hint="Score every cue with a finite number; leave the cue out when it may not be scored.",
            )
        if (self.scores == _LOWEST).any():
            where = self.trace_ids[self.owners[np.argmax(self.scores == _LOWEST)]]
            raise DataError(
                f"A score of trace {str(where)!r} is the lowest float32 number, which exceeds no threshold.",
                hint="Leave a cue out when it may never exit, or give it a higher score.",
            )
        if ((self.losses < 0) | (self.losses > 1)).any():
            raise DataError(
                "A loss lies outside [0, 1].", hint="Use 0 and 1, a fraction, or leave it empty for unknown."
            )
        if (self.tokens is None) != (self.full_tokens is None):
            raise DataError(
                "Only one of the two token columns is there.", hint="Give tokens and full_tokens, or none."
            )
        self._check_columns()

    def _check_columns(self) -> None:
        n, events = len(self.trace_ids), len(self.scores)
        if self.groups is not None and (len(self.groups) != n or (self.groups == "").any()):
            raise DataError(
                "A trace has no group.", hint="Give every trace a group, or calibrate without one."
            )
        if self.prompts is not None and len(self.prompts) != n:
            raise DataError("The prompt digests do not describe the same traces as the trace ids.")
        if self.subgroups is not None and len(self.subgroups) != n:
            raise DataError("The subgroups do not describe the same traces as the trace ids.")
        if self.tokens is not None and self.full_tokens is not None:
            if len(self.tokens) != events or len(self.full_tokens) != n:
                raise DataError("The token columns do not match the cues and the traces.")
            if (self.tokens < 0).any() or (self.tokens > self.full_tokens[self.owners]).any():
                raise DataError(
                    "A cue lies after the end of its trace: tokens exceeds full_tokens.",
                    hint="Count in tokens what is thought up to the exit, and in full_tokens all of it.",
                )


def _some(prompts: Sequence[str] | NDArray[Any] | None) -> NDArray[np.str_] | None:
    given = None if prompts is None else np.asarray(prompts, dtype=np.str_)
    return None if given is None or (given == "").all() else given


def _float32(scores: ArrayLike) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.asarray(scores).astype(np.float32) + np.float32(0.0)


def _check_ids(traces: NDArray[np.str_], problems: NDArray[np.str_]) -> None:
    if (traces == "").any() or (problems == "").any():
        raise DataError("A trace id or a problem id is empty.", hint="Fill both columns in every row.")
    names, counts = np.unique(traces, return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"Trace id {str(names[counts.argmax()])!r} occurs {counts.max()} times.",
            hint="Give every trace its own id, or several samples of a problem the same problem_id.",
        )
