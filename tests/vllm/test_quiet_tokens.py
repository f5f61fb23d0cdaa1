"""Sessions that read their quiet tokens late decide as sessions that read every token at once."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from lynxstop.core import loops  # noqa: E402
from lynxstop.core.exits import Mode, Reason  # noqa: E402
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL  # noqa: E402
from lynxstop.core.policy import Level, StopPolicy  # noqa: E402
from lynxstop.core.session import Session  # noqa: E402
from lynxstop.core.statistics import UNKNOWN, Statistics  # noqa: E402
from lynxstop.engines.torch.statistics import describe  # noqa: E402
from lynxstop.engines.vllm import core_sessions, host_sessions, quiet_tokens  # noqa: E402
from lynxstop.engines.vllm.host_sessions import HostSessions  # noqa: E402
from lynxstop.engines.vllm.per_request import PerRequestSessions  # noqa: E402
from lynxstop.engines.vllm.quiet_tokens import QuietTokens  # noqa: E402
from lynxstop.engines.vllm.request_options import RequestOptions  # noqa: E402
from lynxstop.engines.vllm.session_batch import COUNTERS, EXIT_KINDS, REASONS, BatchStep  # noqa: E402
from lynxstop.rules.served import serve  # noqa: E402
from lynxstop.rules.table import rule_from  # noqa: E402
from tests.vllm.test_rules import learned  # noqa: E402
from tests.vllm.test_sessions import EXIT, MACHINE, PROBE, VOCABULARY, WATCH  # noqa: E402

SLOTS = 4
LOGITS = VOCABULARY + 1
"""Of the model: it has a token more than its tokenizer."""
RULE = serve(rule_from("combined", learned(14)))
policies = st.builds(
    lambda points, every, budget, guard, rule, minimum: StopPolicy(
        EXIT, (Level(core_sessions._RISK, 0.3),), minimum, budget=budget, points=points,
        every=every if points & INTERVAL else 0,
        loop_guard=guard, rule=rule,
    ),
    st.integers(CUE, CUE | BOUNDARY | INTERVAL), st.integers(2, 9), st.none() | st.integers(1, 40),
    st.sampled_from([None, None, 3]), st.sampled_from([RULE, RULE, None]), st.integers(0, 20),
)  # fmt: skip
# Ordinary words mostly: long stretches in which nothing is decided, cues, the marks of a thinking block, and
# a token that the tokenizer does not have.
WORDS = (7, 10, 11, 14, *[9] * 4, 8, 8, 7, 10, 3, 4, 13, 1, 0, VOCABULARY)


def pick(features: Any, rows: Any) -> Any:
    """Features of some rows, or of all."""
    return features if rows is None else features[rows]


class Plain:
    """A request in a session of its own, which reads each token and decides at once.

    `unread` counts the rows to come that read nothing: of its prompt, or of what is computed again.
    """

    def __init__(self, policy: StopPolicy, prompt: list[int], mode: Mode) -> None:
        self.session = Session(WATCH, policy, prompt, risk=core_sessions._RISK, mode=mode)
        self.before: Any = None
        self.forced: int | None = None
        self.prompted, self.unread = False, 1

    def read(self, token: int, logits: Any, score: float) -> None:
        found, after = describe(logits, EXIT[0])
        own = math.nan if self.before is None else float(self.before.logprobs(torch.tensor([token])))
        asked = self.session.read(token)
        known = Statistics(*[*found[0].tolist(), own]) if self.session.policy.rule else UNKNOWN
        self.forced = self.session.decide(score if asked else None, known)
        self.before = after

    def skip(self, logits: Any) -> None:
        if not self.prompted:
            self.before = describe(logits, EXIT[0])[1]
        self.unread -= 1
        self.prompted |= not self.unread


class Both:
    """Requests in sessions of the engine, and each in a session of its own; None is one left alone."""

    sessions: HostSessions | PerRequestSessions

    def __init__(
        self, policy: StopPolicy, mode: Mode = Mode.STOP, seed: int = 0, *, host: bool = False
    ) -> None:
        self.policy, self.mode, self.draw = policy, mode, np.random.default_rng(seed)
        if host:
            self.sessions = HostSessions(WATCH, policy, PROBE, SLOTS + 1, 2)
        else:
            self.sessions = PerRequestSessions(MACHINE, policy, PROBE, torch.device("cpu"), SLOTS + 1, 2)
        self.alone: list[Plain | None] = [None] * SLOTS
        self.all: list[Plain] = []

    def admit(self, slot: int, prompt: list[int] | None) -> Plain | None:
        """Give a slot to a new request, or without a prompt to one that is left alone."""
        options = RequestOptions(prompt is not None, 0.3, self.policy.budget, self.mode is Mode.STOP)
        self.sessions.admit(slot, prompt or [9], options)
        one = None if prompt is None else Plain(self.policy, prompt, self.mode)
        self.alone[slot] = one
        self.all += [] if one is None else [one]
        return one

    def interrupt(self, slot: int, unread: int) -> None:
        """Let a request leave its slot, and come back after others; part of it is computed again."""
        one = self.alone[slot]
        if one is None or not one.prompted:
            return
        parked = self.sessions.park(slot)
        self.sessions.admit(slot, [9], RequestOptions(False))
        self.sessions.resume(slot, parked)
        one.unread = unread

    def step(self, slots: Any, given: list[int] | None = None) -> None:
        """Feed tokens, drawn where none are given and none is forced; what is decided agrees."""
        draw, rows = self.draw, [self.alone[slot] for slot in slots]
        logits = torch.from_numpy(draw.normal(size=(len(rows), LOGITS)).astype(np.float32)) * 2
        scores = torch.from_numpy(draw.normal(size=(len(rows), 1)).astype(np.float32))
        tokens = []
        reads = np.array([one is None or not one.unread for one in rows])
        for row, one in enumerate(rows):
            obeys = one is not None and one.forced is not None and draw.random() < 0.95
            drawn = one.forced if one is not None and obeys else int(draw.choice(WORDS))
            token = drawn if given is None else given[row]
            tokens.append(token)
            if one is not None and reads[row]:
                one.read(token, logits[row : row + 1], float(scores[row, 0]))
            elif one is not None:
                one.skip(logits[row : row + 1])
        sessions = self.sessions
        step = BatchStep(np.array(slots), torch.tensor(tokens), None, reads, lambda rows: [])
        assert not sessions.observe(step, partial(pick, scores), logits)
        wanted = torch.zeros_like(logits)
        sessions.force(wanted)
        forced = [int(row.argmax()) if row.max() > 1e8 else None for row in wanted]
        assert forced == [None if one is None else one.forced for one in rows]
        exits, inside, (_, positions) = sessions.exits(), sessions.inside(), sessions.shown()
        for row, one in enumerate(rows):
            taken = None if one is None else one.session.exit
            kind = 0 if taken is None else taken.thinking_tokens * EXIT_KINDS + REASONS.index(taken.reason)
            assert int(exits[0, row]) == kind
            score = math.nan if taken is None else float(np.float32(taken.score))
            assert repr(float(exits[1, row : row + 1].view(torch.float32))) == repr(score)
            stops = one is not None and self.mode is Mode.STOP and not one.session.stopped
            assert bool(inside[row]) == (one is not None and one.session.inside and stops)
            here = sessions._by_slot[slots[row]]
            if one is None or (here is not None and not here.ended):
                assert int(positions[row]) == (0 if one is None else one.session.thinking_tokens)

    def compare(self, slot: int) -> None:
        """What a session has seen is the same in the end, signals and scores to the last bit."""
        one, here = self.alone[slot], self.sessions._by_slot[slot]
        if one is None or here is None or here.ended:
            return
        self.sessions.park(slot)
        late, plain = here.session, one.session
        assert (late.tokens, late.thinking_tokens, late.phase, late.state) == (
            plain.tokens, plain.thinking_tokens, plain.phase, plain.state,
        )  # fmt: skip
        # (after an exit that shadow mode does not take, statistics and scores are not computed any more)
        until = math.inf if late.exit is None else late.exit.seen_at
        for event, other in zip(late.events, plain.events, strict=True):
            known = event if event.seen_at <= until else replace(event, score=other.score)
            assert repr(known) == repr(other)
        assert repr(late.exit) == repr(plain.exit)
        if late.exit is None and late._scorer is not None and plain._scorer is not None:
            assert repr(late._scorer.snapshot(0.0).signals) == repr(plain._scorer.snapshot(0.0).signals)


@pytest.mark.parametrize("host", [True, False])
@settings(max_examples=25, deadline=None)
@given(
    policy=policies,
    mode=st.sampled_from(Mode),
    room=st.sampled_from([1, 2, 7, 32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_late_readers_decide_as_sessions_that_read_at_once(
    host: bool, policy: StopPolicy, mode: Mode, room: int, seed: int
) -> None:
    if host:
        policy = replace(policy, points=CUE, every=0, loop_guard=None, rule=None)
    prompts = [[0], [0, 9], [0, 10], [9], None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quiet_tokens, "ROOM", room)
        patch.setattr(host_sessions, "_ROOM", room)
        both = Both(policy, mode, seed, host=host)
        draw = both.draw
        for slot in range(SLOTS):
            both.admit(slot, [0])
        for _ in range(50):
            # when some of them read a token, in rows of any order, one is interrupted or another one comes
            both.step(draw.permutation(SLOTS)[: draw.integers(1, SLOTS + 1)])
            slot, what = int(draw.integers(SLOTS)), draw.random()
            if what < 0.2:
                both.interrupt(slot, int(draw.integers(3)))
            elif what < 0.25:
                both.compare(slot)
                if (one := both.admit(slot, prompts[draw.integers(len(prompts))])) is not None:
                    one.unread = int(draw.integers(1, 3))
        for slot in range(SLOTS):
            both.compare(slot)
    # then all is counted as in sessions that read at once
    counts = dict(zip(COUNTERS, both.sessions.counters.tolist(), strict=True))
    exits = [one.session.exit for one in both.all if one.session.exit is not None]
    assert counts["cues"] == sum(len(one.session.events) for one in both.all)
    assert counts["exit_tokens"] == sum(exit.thinking_tokens for exit in exits)


CUES = StopPolicy(EXIT, (Level(core_sessions._RISK, 0.3),), points=CUE, rule=RULE)


def test_tokens_that_are_computed_again_are_not_read_again() -> None:
    # given a request that has read quiet tokens, the last one in front of a word
    both = Both(replace(CUES, min_tokens=1000))
    one = both.admit(0, [0])
    for token in (0, 10, 9, 9):
        both.step([0], [token])
    # when it is interrupted, and a token inside a word is computed again before a cue comes
    both.interrupt(0, 1)
    for token in (10, 3, 9):
        both.step([0], [token])
    # then that is seen
    assert one is not None
    assert len(one.session.events) == 1
    both.compare(0)


def test_a_request_that_is_interrupted_before_its_first_token_knows_its_log_probability() -> None:
    # given a request whose prompt has been read
    both = Both(replace(CUES, points=INTERVAL, every=3))
    both.admit(0, [0])
    both.step([0], [0])
    # when it is interrupted, and its prompt is computed again up to another token
    both.interrupt(0, 1)
    for token in (9, 10, 9, 9):
        both.step([0], [token])
    # then signals and scores are those of an uninterrupted one
    both.compare(0)


def test_what_is_kept_is_forgotten_with_the_batch() -> None:
    # given a request that has not read all its tokens, when all are dropped, and another one takes its slot
    both = Both(CUES)
    both.admit(0, [0])
    for token in (0, 10, 9, 9):
        both.step([0], [token])
    both.sessions.drop()
    both.admit(0, [0])
    for token in (0, 9, 10):
        both.step([0], [token])
    # then that has read its own alone
    both.compare(0)


def test_an_exit_is_that_of_its_request_alone() -> None:
    # given a request that was stopped
    both = Both(replace(CUES, budget=2))
    one = both.admit(0, [0])
    for token in (0, 9, 9, *EXIT, 9):
        both.step([0], [token])
    assert one is not None
    assert one.session.exit is not None
    # when it is interrupted while it answers, then its exit is still known
    both.interrupt(0, 1)
    both.step([0], [9])
    both.step([0], [9])
    # and when one that is left alone takes its slot, then that has none
    both.admit(0, None)
    both.admit(1, [0])
    both.step([0, 1], [9, 9])


def test_a_loop_is_seen_at_the_token_that_completes_it() -> None:
    both = Both(replace(CUES, loop_guard=2))
    one = both.admit(0, [0])
    for _ in range(loops.LEAST + 2):
        both.step([0], [9])
    assert one is not None
    assert one.session.exit is not None
    assert one.session.exit.reason is Reason.LOOP


@pytest.mark.parametrize(
    ("prompt", "tokens", "read"),
    [
        # in the prompt's thinking block; before one opens, and in it; behind one
        ([0], [9, 10, 9], 0),
        ([9], [9, 3, 9], 0),
        ([9], [9, 0, 9, 10], 2),
        ([0], [9, 1, 9, 10], 2),
        # behind a cue that is none, and behind an exit by the budget
        ([0], [3, 7, 9, 9], 1),
        ([0], [9, 10, 9, 10, 9, 9, 10, 9], 6),
    ],
)
def test_tokens_that_decide_nothing_wait_to_be_read(prompt: list[int], tokens: list[int], read: int) -> None:
    # given a request in shadow mode, when it has read tokens
    both = Both(replace(CUES, budget=6), Mode.SHADOW)
    both.admit(0, prompt)
    both.step([0], [9])
    for token in tokens:
        both.step([0], [token])
    # then its session has read them up to the last one that may decide something
    here = both.sessions._by_slot[0]
    assert here is not None
    assert here.session.tokens == read
    both.compare(0)


@pytest.mark.parametrize("points", [CUE, BOUNDARY, INTERVAL])
def test_points_of_each_kind_are_read_at_once(points: int) -> None:
    # given a request, when it reads a token without a text, cues, ends of sentences and words
    both = Both(replace(CUES, points=points, every=5 if points == INTERVAL else 0, min_tokens=1000))
    one, here = both.admit(0, [0]), both.sessions._by_slot[0]
    for token in (0, 10, VOCABULARY, 3, 14, 10, 9, 10, VOCABULARY, 3, 14, 10, 9):
        both.step([0], [token])
    # then it has seen its points
    assert one is not None
    assert here is not None
    assert len(here.session.events) == len(one.session.events) == 2
    both.compare(0)


def test_a_request_whose_statistics_are_lost_is_left_alone() -> None:
    # given a request that has read a token, when nobody knows how likely the next one was
    both = Both(CUES)
    both.admit(0, [0])
    for token in (0, 9):
        both.step([0], [token])
    assert isinstance(both.sessions, PerRequestSessions)
    assert both.sessions._statistics is not None
    both.sessions._statistics.take(0)
    step = BatchStep(np.zeros(1, np.int64), torch.tensor([9]), None, None, lambda rows: [])
    lost = both.sessions.observe(step, partial(pick, torch.zeros(1, 1)), torch.zeros(1, LOGITS))
    # then it is counted as lost, and thinks to the end
    assert lost == 1
    assert not both.sessions.inside()[0]


def test_a_session_that_misses_its_turns_catches_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # given two requests that are never in the steps in which it is their turn
    monkeypatch.setattr(quiet_tokens, "ROOM", 2)
    both = Both(CUES)
    for slot in (0, 1):
        both.admit(slot, [0])
    # when they read on, then nothing is lost
    for number in range(14):
        both.step([number % 2], [9])
    both.compare(0)
    both.compare(1)


def test_sessions_catch_up_in_steps_of_their_own() -> None:
    # given more slots than steps until a session catches up in any case
    slots = np.arange(2 * quiet_tokens.ROOM)
    quiet = QuietTokens(MACHINE, CUES, len(slots))
    due = [quiet.due(slots) for _ in range(quiet_tokens.ROOM)]
    # then all had their turn once, and each step has as many
    assert sorted(slot for one in due for slot in one) == slots.tolist()
    assert {len(one) for one in due} == {2}


@given(st.lists(st.integers(0, VOCABULARY), max_size=40))
def test_only_the_token_right_after_a_pending_cue_confirms_it(tokens: list[int]) -> None:
    # given any stream inside a thinking block, then nothing else has to be remembered of a cue
    state, pending = WATCH.start([0]), False
    for token in tokens:
        seen = WATCH.read(state, token)
        assert pending or not seen.confirmed
        state, pending = seen.state, seen.pending


def test_a_budget_beyond_all_limits_is_none() -> None:
    # given a budget that no thinking reaches, when a request thinks, then it goes on
    both = Both(replace(CUES, budget=10**30))
    one = both.admit(0, [0])
    for _ in range(3):
        both.step([0], [9])
    assert one is not None
    assert one.session.exit is None
