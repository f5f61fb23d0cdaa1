"""The array form of the first exit decides as the core session, trace by trace."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.calibration.case import Case
from lynxstop.calibration.losses import LOSSES, Verdicts
from lynxstop.calibration.units import as_units
from lynxstop.core.exits import Mode
from lynxstop.core.first_exit import exit_steps, first_exits, sums_at
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.rule import eligible_mask
from lynxstop.core.session import Session
from lynxstop.core.watch import Reader, WatchState, WatchStep
from lynxstop.replay.exits import ExitTable
from lynxstop.replay.tilt import lowered

SCORES = [-2.5, -1.0, -0.0, 0.0, 0.1, 0.5, 3.0, math.nan]
THRESHOLDS = np.array([9.0, 3.0, 0.5, 0.3, 0.1, 0.0, -1.0, -2.5, -9.0], np.float32)
PLAIN, HERE, PENDING, CONFIRMS, EDGE = range(5)
"""Tokens: nothing, a whole cue, a cue that the next token may confirm, that confirmation, a boundary."""


class Marks(Reader):
    """Thinking throughout; every token says itself what it shows."""

    __slots__ = ()
    boundaries = frozenset({EDGE})

    def start(self, prompt_ids):
        return WatchState(1, 0)

    def inside(self, state):
        return True

    def read(self, state, token):
        return WatchStep(state, True, token == CONFIRMS, token == HERE, token == PENDING)


verdicts = st.sampled_from([0.0, 1.0, math.nan])
tokens = st.tuples(st.integers(PLAIN, EDGE), st.sampled_from(SCORES), verdicts)
traces = st.lists(st.lists(tokens, max_size=12), min_size=1, max_size=6)
policies = st.builds(
    lambda points, every, **guards: StopPolicy(
        exit_ids=(0,), points=points, every=every if points & INTERVAL else 0, **guards
    ),
    points=st.sampled_from([CUE, BOUNDARY, CUE | BOUNDARY, CUE | INTERVAL, CUE | BOUNDARY | INTERVAL]),
    every=st.integers(1, 4),
    min_tokens=st.integers(0, 6),
    cooldown=st.integers(0, 5),
    stride=st.integers(1, 3),
    max_points=st.none() | st.integers(1, 3),
    tilt=st.sampled_from([0.0, 0.0, 0.3, 1.7]),
)


def run(trace, policy, threshold, mode):
    served = replace(policy, levels=(Level(0.5, float(threshold)),))
    session = Session(Marks(), served, (), risk=0.5, mode=mode)
    for token, score, _ in trace:
        session.read(token)
        session.decide(score)
    return session


def recorded(found, policy):
    """Shadow every trace, and keep its eligible points with verdicts; also the ordinals of their events."""
    rows = []
    for owner, trace in enumerate(found):
        events = run(trace, policy, math.inf, Mode.SHADOW).events
        positions = np.array([event.position for event in events], np.int64)
        assert eligible_mask(policy, positions).tolist() == [event.eligible for event in events]
        rows += [
            (owner, ordinal, event.score, event.seen_at + 1, trace[event.index][2])
            for ordinal, event in enumerate(events)
            if event.eligible
        ]
    owners, ordinals, scores, ends, agrees = (np.array(column) for column in zip(*rows, strict=True))
    ids = np.array([f"t{i}" for i in range(len(found))])
    known = ~np.isnan(agrees.astype(float))
    table = ExitTable(
        trace_ids=ids, problem_ids=ids, full_tokens=np.array([len(trace) + 1 for trace in found]),
        full_right=np.ones(len(found)), full_parsed=np.ones(len(found), bool), owners=owners,
        tokens=ends, agrees=agrees.astype(float), right=agrees.astype(float), parsed=known,
        cue=np.ones(len(owners), bool), rows=np.arange(len(owners)),
    )  # fmt: skip
    return table, scores.astype(np.float32), ordinals


@given(traces, policies, st.sampled_from([0.0, 0.25, 1.0]))
def test_array_forms_equal_a_session_per_trace_and_threshold(found, policy, unknown_loss):
    if not any(e.eligible for trace in found for e in run(trace, policy, math.inf, Mode.SHADOW).events):
        return
    table, scores, ordinals = recorded(found, policy)
    units = as_units(table.scored(scores, LOSSES["disagree"]), "one", 0)
    # given that a table of untilted scores, tilted, holds what the sessions compared
    plain, raw, _ = recorded(found, replace(policy, tilt=0.0))
    assert lowered(raw, plain, policy.tilt).tobytes() == scores.tobytes()
    curve = Case(units, units.table.charged(unknown_loss)).at(THRESHOLDS)
    steps = exit_steps(table.owners, scores)
    sums = sums_at(steps, np.ones(len(steps.event)), THRESHOLDS[::-1])[::-1]
    for place, threshold in enumerate(THRESHOLDS):
        # given what a session that stops decides
        stops = [run(trace, policy, threshold, Mode.STOP).exit for trace in found]
        exits = [stop is not None for stop in stops]
        # then the array form takes the same exit of every trace
        events = first_exits(steps, len(found), float(threshold))
        assert [-1 if stop is None else stop.cue for stop in stops] == [
            -1 if event < 0 else ordinals[event] for event in events
        ]
        done = table.at(scores, float(threshold))
        assert done.exits.tolist() == exits
        early = [len(t) + 1 if s is None else s.seen_at + 1 for t, s in zip(found, stops, strict=True)]
        assert done.gross.tolist() == early
        # and its sums, with what the user charges for unknown answers, are theirs
        losses = [1 - table.agrees[event] for event in events if event >= 0]
        assert curve.losses[place] == sum(unknown_loss if math.isnan(loss) else loss for loss in losses)
        assert curve.exits[place] == sums[place] == sum(exits)
        assert curve.saved[place] == sum(done.full - done.gross)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_unknown_only_where_a_verdict_that_matters_is(name):
    every = np.array([(a, r, f) for a in (0, 1, np.nan) for r in (0, 1, np.nan) for f in (0, 1, np.nan)])
    losses = LOSSES[name].at_exit(Verdicts(*every.T))
    for own, loss in zip(every, losses, strict=True):
        # filling in the unknown verdicts either way gives one loss if and only if it is known
        filled = [[value] if value == value else [0.0, 1.0] for value in own]
        options = {
            float(LOSSES[name].at_exit(Verdicts(*np.array([[a], [r], [f]])))[0])
            for a in filled[0]
            for r in filled[1]
            for f in filled[2]
        }
        assert options == ({loss} if loss == loss else {0.0, 1.0})
