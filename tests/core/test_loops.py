"""The loop guard fires exactly where the definition says, and a session stops there."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lynxstop.core.exits import Mode, Reason
from lynxstop.core.loops import LoopGuard
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.session import Phase, Session
from lynxstop.errors import ConfigError


def loops(tokens, repeats, longest, least):
    """Whether the tokens end in a loop, by the definition."""
    for period in range(1, longest + 1):
        size = max(repeats * period, least)
        tail = tokens[-size:]
        if len(tail) == size and all(tail[i] == tail[i - period] for i in range(period, size)):
            return True
    return False


@st.composite
def streams(draw):
    """Passages of few different tokens, some of them repeated."""
    parts = draw(
        st.lists(
            st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=7), st.integers(1, 6)), max_size=6
        )
    )
    return [token for passage, count in parts for token in passage * count]


@given(streams(), st.integers(2, 4), st.integers(1, 6), st.integers(0, 9))
@example([0] * 40, 3, 4, 0)
def test_it_fires_where_the_stream_ends_in_repeats_and_nowhere_else(tokens, repeats, longest, least):
    guard = LoopGuard(repeats, longest=longest, least=least)
    fired = [guard.read(token) for token in tokens]
    assert fired == [loops(tokens[: end + 1], repeats, longest, least) for end in range(len(tokens))]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40, unique=True), st.integers(2, 5))
def test_a_repeated_passage_fires_at_the_last_token_of_its_kth_copy(passage, repeats):
    guard = LoopGuard(repeats, least=0)
    fired = [guard.read(token) for token in passage * (repeats + 1)]
    assert fired.index(True) == repeats * len(passage) - 1


def test_a_stream_without_repetition_never_fires():
    guard = LoopGuard(2)
    assert not any(guard.read(token) for token in range(3000))


def test_short_repetitions_are_left_alone():
    guard = LoopGuard(4)
    assert [guard.read(7) for _ in range(64)].index(True) == 63


def test_a_reset_forgets_what_was_read():
    guard = LoopGuard(2, least=0)
    assert not guard.read(1)
    guard.reset()
    assert not guard.read(1)
    assert guard.read(1)


@pytest.mark.parametrize("options", [{"repeats": 1}, {"repeats": 2, "longest": 0}])
def test_impossible_guards_are_refused(options):
    with pytest.raises(ConfigError):
        LoopGuard(**options)
    if options == {"repeats": 1}:
        with pytest.raises(ConfigError):
            StopPolicy((0,), loop_guard=1)


def policy(words, **options):
    return StopPolicy(tuple(words.ids("\n\n", "</think>", " so")), (Level(0.05, 1.0),), **options)


def drive(session, plan, count):
    out, forced = [], None
    for planned in itertools.islice(itertools.cycle(plan), count):
        out.append(planned if forced is None else forced)
        session.read(out[-1])
        forced = session.decide(0.0)
    return out


def test_a_session_closes_the_thinking_of_a_loop_and_says_so(words):
    # given thinking that repeats 20 tokens, with a cue in each copy
    plan = words.ids(" a", " wait", ",", *[" a"] * 16, ",")
    stop = policy(words, loop_guard=5)
    session = Session(words.watch, stop, words.ids("<think>"), risk=0.05)
    out = drive(session, plan, 110)
    # then the exit follows the fifth copy, and does not count as certified
    assert out[:100] == plan * 5
    assert out[100:103] == list(stop.exit_ids)
    assert session.phase is Phase.ANSWERING
    assert session.exit is not None
    assert (session.exit.reason, session.exit.cue, session.exit.thinking_tokens) == (Reason.LOOP, -1, 100)
    assert not session.exit.certified


def test_a_loop_in_shadow_is_recorded_only(words):
    plan = words.ids(" a")
    session = Session(words.watch, policy(words, loop_guard=2), words.ids("<think>"), mode=Mode.SHADOW)
    assert drive(session, plan, 80) == plan * 80
    assert session.exit is not None
    assert (session.exit.reason, session.exit.thinking_tokens) == (Reason.LOOP, 64)


def test_a_loop_counts_within_one_thinking_block_and_not_at_all_unless_asked_for(words):
    broken = [*words.ids(*[" a"] * 40), *words.ids("</think>", "<think>")]
    session = Session(words.watch, policy(words, loop_guard=2), words.ids("<think>"))
    drive(session, broken, 200)
    assert session.exit is None
    session = Session(words.watch, policy(words), words.ids("<think>"))
    drive(session, words.ids(" a"), 500)
    assert session.exit is None
