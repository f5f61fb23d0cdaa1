"""Recorded traces as rules see them: decision points with signals, logits and trial answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lynxstop.calibration.losses import Loss, charge
from lynxstop.core.exits import Mode
from lynxstop.core.points import BOUNDARY, CUE
from lynxstop.core.policy import StopPolicy
from lynxstop.core.session import Session
from lynxstop.core.statistics import Statistics
from lynxstop.core.types import SKIPPED_CUE, SKIPPED_MARK, SKIPPED_PENDING, Tokens
from lynxstop.core.watch import Reader, WatchState, WatchStep
from lynxstop.errors import DataError
from lynxstop.grading.normalise import normalise
from lynxstop.replay.exits import ExitTable, exits_at
from lynxstop.replay.parts import Recorded
from lynxstop.replay.thinned import chosen_already, guards_of
from lynxstop.rules import Point, Rule, Training, Trial
from lynxstop.rules.base import run
from lynxstop.signals.panel import Panel

Row = Mapping[str, Any]
Signals = dict[str, float]


def read_points(
    data: Recorded,
    keys: Iterable[str],
    logits: NDArray[np.float32],
    policy: StopPolicy,
    *,
    step: Callable[[], None] = lambda: None,
) -> ExitTable:
    """Run a session over every recorded trace once, and keep its eligible decision points with their signals.

    Parameters
    ----------
    data : Recorded
    keys : iterable of str
        Signals that any rule needs.
    logits : float32, shape (cues,)
        Of the probe, NaN without one.
    policy : StopPolicy
        Its guards and kinds of points decide which points are eligible.
    step : callable
        Called after every trace.

    Raises
    ------
    DataError
        When the data were recorded under other guards.
    """
    meta, kinds = data.meta, policy.points
    if chosen_already(meta, policy):
        policy = replace(policy, points=meta.points, every=meta.every, **guards_of(meta))
    cues, traces = data.cues(), data.traces()
    recorded: list[dict[str, Any]] = cues.to_pylist()
    keys, start = tuple(dict.fromkeys(keys)), 0
    points: list[list[Point]] = []
    rows: list[int] = []
    for count, tokens in zip(traces["cues"].to_pylist(), data.tokens(), strict=True):
        own = recorded[start : start + count]
        seen = [at for at in _replayed(own, tokens, keys, policy) if own[at[0]]["kind"] & kinds]
        rows += [start + place for place, _ in seen]
        points.append(
            [
                Point(signals, float(logits[start + place]), own[place]["position"], _trial(own[place]))
                for place, signals in seen
            ]
        )
        start += count
        step()
    return replace(exits_at(traces, cues, np.array(rows, np.int64)), points=points)


def training_of(table: ExitTable, budget: int, loss: Loss) -> Training:
    """Return traces as rules learn from them; an unknown loss counts as a loss."""
    losses = charge(loss.at_exit(table.verdicts))
    return Training(
        table.points,
        np.split(losses, np.cumsum(table.lengths)[:-1]),
        table.problem_ids.tolist(),
        table.full_tokens.tolist(),
        budget,
    )


def score_points(rule: Rule, table: ExitTable) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Let a rule score all traces.

    Returns
    -------
    (scores, costs)
        Per point; scores as float32, as they are compared live, NaN where the rule abstains; costs in tokens
        of trial answers.

    Raises
    ------
    DataError
        When a score is infinite.
    """
    found = [run(rule, own) for own in table.points]
    scores = np.concatenate([np.zeros(0, np.float32), *(own for own, _ in found)])
    if np.isinf(scores).any():
        raise DataError(f"The rule {rule.name!r} gives an infinite score.", hint="A rule abstains with NaN.")
    return scores, np.concatenate([np.zeros(0, np.int64), *(costs for _, costs in found)])


def _replayed(
    rows: Sequence[Row], tokens: Tokens, keys: Sequence[str], policy: StopPolicy
) -> list[tuple[int, Signals]]:
    """Eligible points of one trace, by their place among its rows, with the signals there."""
    asked = {place: row for place, row in enumerate(rows) if row["kind"] & policy.points}
    found: list[tuple[int, Signals]] = []
    collector = _Collector(keys, tokens.ids.tolist(), asked, found)
    # Points that their own token settles are boundaries to this session, wherever they were recorded.
    kinds = policy.points & CUE | BOUNDARY
    shown = replace(policy, levels=(), budget=None, loop_guard=None, points=kinds, every=0, rule=collector)
    session = Session(_RecordedWatch(asked.values(), tokens, policy.points), shown, (), mode=Mode.SHADOW)
    end = 1 + max((row["seen_at"] for row in asked.values()), default=-1)
    for index, statistics in enumerate(tokens.statistics[:end].tolist()):
        session.read(index)
        session.decide(None, Statistics(*statistics))
    return found


class _RecordedWatch(Reader):
    """Shows a session what was seen when its trace was recorded; the tokens it reads are their indices."""

    __slots__ = ("_confirmed", "_here", "_pending", "_thinking", "boundaries")

    def __init__(self, rows: Iterable[Row], tokens: Tokens, points: int) -> None:
        self._thinking = [*tokens.thinking.tolist(), False]
        self.boundaries: set[int] = set()
        self._here: set[int] = set()
        self._pending: set[int] = set()
        self._confirmed: set[int] = set()
        for row in rows:
            index, settled = row["index"], row["seen_at"]
            if row["kind"] & points & ~CUE:
                self.boundaries.add(index)
            if row["kind"] & CUE and settled == index:
                self._here.add(index)
            elif row["kind"] & CUE:
                self._pending.add(index)
                self._confirmed.add(settled)
        if tokens.skipped is not None:
            self._add_skipped(tokens.skipped)

    def _add_skipped(self, skipped: NDArray[np.uint8]) -> None:
        """Show the points that guards left out as well: signals and guards count them."""
        pending = np.flatnonzero(skipped & SKIPPED_PENDING)
        self.boundaries.update(np.flatnonzero(skipped & SKIPPED_MARK).tolist())
        self._here.update(np.flatnonzero(skipped & SKIPPED_CUE).tolist())
        self._pending.update(pending.tolist())
        self._confirmed.update((pending + 1).tolist())

    def start(self, prompt_ids: Iterable[int]) -> WatchState:
        return WatchState(int(self._thinking[0]), 0)

    def inside(self, state: WatchState) -> bool:
        return bool(state.thinking)

    def read(self, state: WatchState, token: int) -> WatchStep:
        # The token that opens a block is not a thinking token itself; the session has to see it.
        inside = self._thinking[token] or self._thinking[token + 1]
        return WatchStep(
            WatchState(int(inside), 0),
            inside,
            token in self._confirmed,
            token in self._here,
            token in self._pending,
        )


class _Collector(NamedTuple):
    """In place of a rule: keeps the signals of every point that a session asks it to score."""

    keys: Sequence[str]
    ids: Sequence[int]
    rows: Mapping[int, Row]
    found: list[tuple[int, Signals]]

    @property
    def statistics(self) -> bool:
        """Whether it needs statistics at every thinking token."""
        return True

    @property
    def hidden(self) -> bool:
        """Whether it needs the probe's logit."""
        return False

    def start(self) -> _CollectorState:
        """Begin a trace."""
        return _CollectorState(self)


class _CollectorState:
    def __init__(self, collector: _Collector) -> None:
        self._ids, self._found = collector.ids, collector.found
        self._places = {(row["index"], row["seen_at"]): place for place, row in collector.rows.items()}
        self._panel = Panel(collector.keys)
        self._index = -1

    def step(self, token: int, statistics: Statistics) -> None:
        self._index = token
        self._panel.step(self._ids[token], statistics)

    def steps(self, tokens: Sequence[int], statistics: Sequence[Statistics]) -> None:
        for token, known in zip(tokens, statistics, strict=True):
            self.step(token, known)

    def cue(self, ago: int) -> None:
        self._panel.cue(ago)

    def snapshot(self, logit: float) -> tuple[int, Signals]:
        return self._index, self._panel.values()

    def score(self, seen: tuple[int, Signals]) -> float:
        index, signals = seen
        self._found.append((self._places[index, self._index], signals))
        return float("nan")


def _trial(row: Row) -> Trial:
    return Trial(
        answer=normalise(row["trial_answer"]) if row["trial_answer"] else "",
        text=row["trial_text"],
        tokens=row["trial_tokens"],
        confidence=row["trial_confidence"],
        mean_prob=row["trial_mean_prob"],
        min_prob=row["trial_min_prob"],
        first_entropy=row["trial_first_entropy"],
    )
