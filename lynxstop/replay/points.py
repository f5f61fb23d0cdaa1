"""Recorded traces as rules see them: decision points with signals, logits and trial answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.traces import TraceTable
from lynxstop.core.points import CUE
from lynxstop.core.policy import StopPolicy
from lynxstop.core.rule import eligible_mask
from lynxstop.core.statistics import Statistics
from lynxstop.core.types import Tokens
from lynxstop.errors import ConfigError, DataError
from lynxstop.grading.normalise import normalise
from lynxstop.rules import Point, Rule, Training, Trial
from lynxstop.rules.training import run
from lynxstop.signals.panel import Panel

LOSSES = ("disagree", "harm", "wrong")


class Recorded(Protocol):
    """A data set, or a part of one."""

    @property
    def meta(self) -> Any:
        """As `lynxstop.recordings.schema.Meta`."""

    def traces(self) -> Any:
        """One row per trace."""

    def cues(self) -> Any:
        """One row per decision point."""

    def tokens(self) -> Iterator[Tokens]:
        """Tokens of every trace."""


@dataclass(frozen=True)
class Trace:
    """One recorded trace; sequences are about its eligible decision points.

    `right` is None where there is no gold, or no verdict; `rows` are places in the cue table.
    """

    trace_id: str
    problem_id: str
    tokens: int
    right: bool | None
    answer: str
    points: tuple[Point, ...]
    at_exit: NDArray[np.int64]
    losses: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    exit_right: tuple[bool | None, ...]
    is_cue: NDArray[np.bool_]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Replay:
    """What a rule makes of the points of many traces: per trace, scores (NaN abstains) and token costs."""

    scores: list[NDArray[np.float64]]
    costs: list[NDArray[np.int64]]


def read_points(
    data: Recorded,
    keys: Iterable[str],
    logits: NDArray[np.float32],
    policy: StopPolicy,
    *,
    loss: str = "disagree",
    step: Callable[[], None] = lambda: None,
) -> list[Trace]:
    """Stream the signals of all traces once.

    Parameters
    ----------
    data : Recorded
    keys : iterable of str
        Signals that any rule needs.
    logits : float32, shape (cues,)
        Of the probe, NaN without one.
    policy : StopPolicy
        Its guards and kinds of points decide which points are eligible.
    loss : {"disagree", "harm", "wrong"}
        A missing or undecided answer is a loss.
    step : callable
        Called behind every trace.
    """
    if loss not in LOSSES:
        raise ConfigError(f"There is no loss {loss!r}.", hint=f"Losses: {', '.join(LOSSES)}.")
    rows: list[dict[str, Any]] = data.cues().to_pylist()
    columns = ["trace_id", "problem_id", "cues", "thinking_tokens", "full_right", "full_answer"]
    keys, found, start = tuple(dict.fromkeys(keys)), [], 0
    for trace, tokens in zip(data.traces().select(columns).to_pylist(), data.tokens(), strict=True):
        own = rows[start : start + trace["cues"]]
        seen = _signals(own, tokens, keys)
        asked = [place for place, row in enumerate(own) if row["kind"] & policy.points]
        mask = eligible_mask(policy, np.array([own[place]["position"] for place in asked], np.int64))
        kept = [place for place, ready in zip(asked, mask, strict=True) if ready]
        found.append(_trace(trace, own, seen, kept, logits[start : start + len(own)], loss, start))
        start += len(own)
        step()
    return found


def _signals(rows: Sequence[dict[str, Any]], tokens: Tokens, keys: Sequence[str]) -> list[dict[str, float]]:
    """Signals at every recorded point, in the order in which a session asks for them."""
    panel = Panel(keys)
    looks: dict[int, list[int]] = {}
    cues: dict[int, int] = {}
    for place, row in enumerate(rows):
        looks.setdefault(row["index"], []).append(place)
        if row["kind"] & CUE:
            cues[row["seen_at"]] = row["seen_at"] - row["index"]
    found: list[dict[str, float]] = [{} for _ in rows]
    last = max((row["seen_at"] for row in rows), default=-1)
    thinking = tokens.thinking.tolist()
    steps = zip(tokens.ids[: last + 1].tolist(), tokens.statistics[: last + 1].tolist(), strict=True)
    for index, (token, statistics) in enumerate(steps):
        if thinking[index]:
            panel.step(token, Statistics(*statistics))
        if cues.get(index) == 1:
            panel.cue(1)
        if index in looks:
            values = panel.values()
            for place in looks[index]:
                found[place] = values
        if cues.get(index) == 0:
            panel.cue(0)
    return found


def _trace(
    trace: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    seen: Sequence[dict[str, float]],
    kept: Sequence[int],
    logits: NDArray[np.float32],
    loss: str,
    start: int,
) -> Trace:
    taken = [rows[place] for place in kept]
    points = tuple(
        Point(seen[place], float(logits[place]), row["position"], _trial(row))
        for place, row in zip(kept, taken, strict=True)
    )
    return Trace(
        trace_id=trace["trace_id"],
        problem_id=trace["problem_id"],
        tokens=trace["thinking_tokens"],
        right=trace["full_right"],
        answer=trace["full_answer"],
        points=points,
        at_exit=np.array([row["thinking_at_exit"] for row in taken], np.int64),
        losses=np.array([_loss(row, trace["full_right"], loss) for row in taken], np.float64),
        agrees=np.array([bool(row["agrees"]) for row in taken], bool),
        exit_right=tuple(row["right"] for row in taken),
        is_cue=np.array([bool(row["kind"] & CUE) for row in taken], bool),
        rows=np.array(kept, np.int64) + start,
    )


def _loss(row: dict[str, Any], full_right: bool | None, loss: str) -> float:
    if loss == "disagree":
        return 0.0 if row["agrees"] else 1.0
    wrong = row["right"] is not True
    return float(wrong and (loss == "wrong" or full_right is not False))


def _trial(row: dict[str, Any]) -> Trial:
    return Trial(
        answer=normalise(row["trial_answer"]) if row["trial_answer"] else "",
        text=row["trial_text"],
        tokens=row["trial_tokens"],
        confidence=row["trial_confidence"],
        mean_prob=row["trial_mean_prob"],
        min_prob=row["trial_min_prob"],
        first_entropy=row["trial_first_entropy"],
    )


def training_of(traces: Sequence[Trace], budget: int) -> Training:
    """Return traces as rules learn from them."""
    return Training(
        [trace.points for trace in traces],
        [trace.losses for trace in traces],
        [trace.problem_id for trace in traces],
        [trace.tokens for trace in traces],
        budget,
    )


def replay(rule: Rule, traces: Sequence[Trace]) -> Replay:
    """Let a rule score all traces; scores become float32 numbers, as they are compared live.

    Raises
    ------
    DataError
        When a score is infinite.
    """
    found = [run(rule, trace.points) for trace in traces]
    scores = [own.astype(np.float32).astype(np.float64) for own, _ in found]
    if any(np.isinf(own).any() for own in scores):
        raise DataError(f"The rule {rule.name!r} gives an infinite score.", hint="A rule abstains with NaN.")
    return Replay(scores, [costs for _, costs in found])


def table_of(traces: Sequence[Trace], scores: Sequence[NDArray[np.float64]]) -> TraceTable:
    """Return a rule's scores as the table that is calibrated; points at which it abstains are left out."""
    known = [~np.isnan(own) for own in scores]
    empty = np.zeros(0)
    pairs = list(zip(traces, known, strict=True))
    return TraceTable.from_arrays(
        trace_ids=[trace.trace_id for trace in traces],
        problem_ids=[trace.problem_id for trace in traces],
        lengths=[int(mask.sum()) for mask in known],
        scores=np.concatenate([empty, *(own[mask] for own, mask in zip(scores, known, strict=True))]),
        losses=np.concatenate([empty, *(trace.losses[mask] for trace, mask in pairs)]),
        tokens=np.concatenate([empty, *(trace.at_exit[mask] for trace, mask in pairs)]).astype(np.int64),
        full_tokens=[trace.tokens for trace in traces],
    )
