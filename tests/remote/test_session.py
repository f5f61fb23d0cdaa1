"""A session over a server's stream: decisions, cuts, and what is held back."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.exits import Mode, Reason
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL
from lynxstop.core.session import Session
from lynxstop.core.statistics import Statistics
from lynxstop.remote.answer import kept_of
from lynxstop.remote.delta import Delta
from lynxstop.remote.fast_path import BATCH
from lynxstop.remote.follow import follow
from lynxstop.remote.session import StreamSession, TruncationPoint
from lynxstop.remote.tokens import StreamToken, Top, beginnings, statistics_of_top_k

EXITS = beginnings("\n</think>\n\nThe answer is ")
TEXTS = [
    b" so",
    b" wait",
    b"Wait",
    b"er",
    b" a",
    b"w",
    b"ait",
    b",",
    b" hmm.",
    b"\n\n",
    b" hold",
    b" on",
    b"x Wait",
]
TOKENS = st.lists(
    st.tuples(st.sampled_from(TEXTS), st.floats(-6, -0.01), st.floats(0.1, 5)), min_size=1, max_size=40
)


def tokens_of(drawn):
    return [
        StreamToken(text, own, Top([" a", "\n", "q"], [-gap / 9, -gap, -2 * gap])) for text, own, gap in drawn
    ]


@given(TOKENS, st.floats(-6, 0), st.booleans())
def test_it_decides_as_the_core_does_with_what_it_knows_one_token_later(
    make_config, drawn, threshold, before
):
    config, tokens = make_config(threshold, before=before), tokens_of(drawn)
    stream = StreamSession(config, risk=0.05)
    stream.mark(opens=True)
    truncation = next((found for token in tokens_of(drawn) if (found := stream.read(token))), None)

    core = Session(config.watch, config.policy, (), risk=0.05)
    core.read(0)
    core.decide()
    stopped = None
    for place, token in enumerate(tokens[:-1]):
        core.read(config.watch.vocabulary.number(token.text))
        [known] = statistics_of_top_k([(token, tokens[place + 1])], EXITS)
        if core.decide(math.nan, known) is not None:
            stopped = place
            break
    assert (truncation is None) == (stopped is None)
    if truncation is not None:
        assert stream.session.exit == core.exit
        assert stream.session.events == core.events
        assert stopped is not None
        assert len(stream.tokens) == stopped + 2


@given(TOKENS, st.booleans())
def test_nothing_that_was_let_go_lies_after_the_cut(make_config, drawn, before):
    stream = StreamSession(make_config(before=before), risk=0.05)
    stream.mark(opens=True)
    gone = 0
    for token in tokens_of(drawn):
        truncation = stream.read(token)
        if truncation is not None:
            assert stream.session.exit is not None
            assert gone <= truncation.index
            text = stream.text(truncation)
            assert b"".join(t.text for t in stream.tokens).startswith(text)
            if before:
                event = stream.session.events[stream.session.exit.cue]
                assert truncation.index <= event.index
            else:
                assert truncation.index == stream.session.exit.seen_at + 1
            return
        held = stream.held
        gone = max(gone, len(stream.tokens) if held is None else held)


@given(TOKENS)
def test_in_shadow_it_decides_and_goes_on(make_config, drawn):
    stopping, shadow = (
        StreamSession(make_config(), risk=0.05, mode=mode) for mode in (Mode.STOP, Mode.SHADOW)
    )
    for session in (stopping, shadow):
        session.mark(opens=True)
    for token in tokens_of(drawn):
        stopping.read(token)
        assert shadow.read(token) is None
        assert shadow.held is None
    assert shadow.session.exit == stopping.session.exit
    assert shadow.truncation == stopping.truncation


def test_a_budget_cuts_after_the_token_that_spent_it(make_config):
    session = StreamSession(make_config(math.inf, budget=2), risk=None)
    session.mark(opens=True)
    cuts = [session.read(StreamToken(text)) for text in (b" a", b" so", b" a")]
    assert [truncation is None for truncation in cuts] == [True, True, False]
    assert cuts[-1] is not None
    assert session.session.exit is not None
    assert cuts[-1].index == 3
    assert cuts[-1].thinking_tokens == 2
    assert session.session.exit.reason is Reason.BUDGET


def test_a_loop_cuts_after_the_token_that_completes_it(make_config):
    session = StreamSession(make_config(math.inf, loop_guard=4), risk=0.05)
    session.mark(opens=True)
    texts = [b" a", b" so", *[b" a"] * 6] * 10
    cuts = [session.read(StreamToken(text)) for text in texts]
    assert next(place for place, cut in enumerate(cuts) if cut is not None) == 64
    assert cuts[64] is not None
    assert session.session.exit is not None
    assert cuts[64].thinking_tokens == 64
    assert session.session.exit.reason is Reason.LOOP


def test_decisions_see_what_is_recorded():
    following = StreamToken(b"a", top=Top(["a", "b"], [-0.1, -2.5]))
    [known] = statistics_of_top_k([(StreamToken(b"a", -0.3), following)], EXITS)
    assert known == Statistics(*map(float, np.array(known, np.float32)))


@pytest.mark.parametrize("shown", [True, False])
def test_a_block_closes_by_its_delimiter_or_by_the_field_of_the_text(make_config, shown):
    session = StreamSession(make_config(math.inf), risk=None)
    follow(session, Delta(thinking=" so a", tokens=[StreamToken(b" so"), StreamToken(b" a")]))
    assert session.inside
    answer = [StreamToken(b"</think>")] * shown + [StreamToken(b" a")]
    follow(session, Delta(content=" a", tokens=answer))
    assert not session.inside
    assert sum(session.thinking) == 2
    assert session.answered == 1


def test_one_event_may_hold_thinking_and_answer(make_config):
    session = StreamSession(make_config(math.inf), risk=None)
    texts = [b" so", b" a", b"</think>", b" a", b" so"]
    follow(session, Delta(" so a", " a so", [StreamToken(text) for text in texts]))
    assert [t for t, thought in zip(session.tokens, session.thinking, strict=True) if thought] == [
        StreamToken(b" so"),
        StreamToken(b" a"),
    ]
    assert session.answered == 2


def test_delimiters_in_the_text_are_understood(make_config):
    session = StreamSession(make_config(math.inf), risk=None)
    for text in (b"<think>", b" so", b"</", b"think>", b" a"):
        follow(session, Delta(content=text.decode(), tokens=[StreamToken(text)]))
    assert sum(session.thinking) >= 1
    assert not session.inside


def test_a_block_that_the_template_opened_unseen_is_open_until_its_delimiter(make_config):
    session = StreamSession(replace(make_config(math.inf), opened=True), risk=None)
    assert session.inside
    for text in (b" so", b" a", b"</think>", b" a"):
        follow(session, Delta(content=text.decode(), tokens=[StreamToken(text)]))
        assert session.inside is (text != b"</think>" and session.answered == 0)
    assert sum(session.thinking) == 2


def test_what_is_kept_tells_how_the_block_was_opened_when_it_is_closed_too(make_config):
    session = StreamSession(make_config(), risk=None)
    follow(session, Delta(thinking=" so", tokens=[StreamToken(b" so")]))
    follow(session, Delta(content=" a", tokens=[StreamToken(b" a")]))
    assert not session.inside
    kept = kept_of(session, TruncationPoint(2, 0, 1))
    assert (kept.text, kept.hidden) == (" so", "<think>")
    session = StreamSession(make_config(), risk=None)
    follow(session, Delta(content="<think> so", tokens=[StreamToken(b"<think>"), StreamToken(b" so")]))
    assert kept_of(session, TruncationPoint(2, 0, 1)).hidden == ""


def test_what_was_decided_on_is_forgotten_unless_it_is_to_be_kept(make_config):
    drawn = [(b" so", -1.0, 1.0)] * (3 * BATCH)
    for keep in (False, True):
        session = StreamSession(make_config(), risk=0.05, keep=keep)
        session.mark(opens=True)
        for token in tokens_of(drawn):
            session.read(token)
        known = [bool(token.top.values) for token in session.tokens[1:]]
        assert sum(known) == (len(known) if keep else BATCH)


LAST = Top([" so", "\n"], [-1.0, -2.0])


def entry_of(token):
    top = [{"token": text, "logprob": value} for text, value in zip(*token.top, strict=True)]
    return json.dumps({"logprob": token.logprob, "top_logprobs": top}).encode()


@given(
    TOKENS,
    st.floats(-6, 0),
    st.booleans(),
    st.sampled_from(list(Mode)),
    st.sampled_from(["thinkbrake", "rpdi", "loop"]),
    st.none() | st.integers(1, 30),
    st.sampled_from(
        [
            {},
            {"points": CUE | BOUNDARY},
            {"points": CUE | INTERVAL, "every": 5},
            {"min_tokens": 6},
            {"stride": 2, "max_points": 2},
            {"loop_guard": 2},
        ]
    ),
)
def test_what_is_enqueued_is_read_as_all_else(
    make_config, drawn, threshold, before, mode, rule, budget, policy
):
    config = make_config(threshold, before=before, rule=rule, budget=budget, **policy)
    queueing, reading = (StreamSession(config, risk=0.05, mode=mode, keep=True) for _ in range(2))
    for session in (queueing, reading):
        session.mark(opens=True)
    for token in tokens_of(drawn * 3):
        truncation = reading.read(token)
        if not queueing.enqueue(token.text, token.id, entry_of(token)):
            assert queueing.read(token) == truncation
            assert queueing.held == reading.held
        else:
            assert truncation is None
            assert reading.held is None
        if truncation is not None:
            break
    # What waits is read before anything else is.
    assert queueing.read(StreamToken(b" so", -1.0, LAST)) == reading.read(StreamToken(b" so", -1.0, LAST))
    for name in ("truncation", "held", "thinking", "inside"):
        assert getattr(queueing, name) == getattr(reading, name)
    for name in ("events", "exit", "phase", "tokens", "thinking_tokens", "state", "idle"):
        assert getattr(queueing.session, name) == getattr(reading.session, name)
    assert [token.text for token in queueing.tokens] == [token.text for token in reading.tokens]
    known = np.array(queueing.statistics())
    assert np.array_equal(known, np.array(reading.statistics()), equal_nan=True)


def test_nothing_is_enqueued_that_has_to_be_decided_on(make_config):
    session = StreamSession(make_config(math.inf), risk=0.05)
    assert not session.enqueue(b" so", None, b"{}")
    session.mark(opens=True)
    session.read(StreamToken(b" so"))
    texts = [b" so", b" wait", b" so", b" so", b"</think>", b" so"]
    taken = []
    for text in texts:
        taken.append(session.enqueue(text, None, b"{}"))
        if not taken[-1]:
            session.read(StreamToken(text))
    assert taken == [True, False, False, False, False, False]
