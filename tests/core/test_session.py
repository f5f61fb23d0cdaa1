"""One request from its prompt to its end."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.exits import Mode, Reason
from lynxstop.core.points import ALL, BOUNDARY, CUE, INTERVAL
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.rule import eligible_mask
from lynxstop.core.session import Phase, Session
from lynxstop.errors import ConfigError
from tests.support.first_exit import first_exit


def policy(words, **options):
    exit_ids = tuple(words.ids("\n\n", "</think>", " so"))
    return StopPolicy(**{"exit_ids": exit_ids, "levels": (Level(0.05, 1.0),), **options})


def run(session, ids, scores=()):
    """Generate `ids`, unless the session forces something else; returns the tokens and where it was asked."""
    scores, out, asked, forced = iter(scores), [], [], None
    for planned in ids:
        token = planned if forced is None else forced
        out.append(token)
        score = None
        if session.read(token):
            asked.append(len(out) - 1)
            score = next(scores, 0.0)
        forced = session.decide(score)
    return out, asked


def test_a_confident_cue_forces_the_exit_behind_its_boundary(words):
    session = Session(words.watch, policy(words), words.ids("<think>"), risk=0.05)
    out, asked = run(session, words.ids(" a", " wait", ",", " a", " a", " a", " a"), [1.5])
    assert out == words.ids(" a", " wait", ",", "\n\n", "</think>", " so", " a")
    assert asked == [1]
    assert session.phase is Phase.ANSWERING
    assert session.exit is not None
    assert session.exit.reason is Reason.SCORE
    assert (session.exit.seen_at, session.exit.thinking_tokens, session.exit.score) == (2, 3, 1.5)
    assert (session.events[0].index, session.events[0].seen_at, session.events[0].position) == (1, 2, 2)


def test_a_doubtful_cue_is_recorded_and_thinking_goes_on(words):
    session = Session(words.watch, policy(words), words.ids("<think>"), risk=0.05)
    ids = words.ids(" wait", ",", " hmm.", "</think>")
    assert run(session, ids, [1.0, 0.5]) == (ids, [0, 2])
    assert [event.score for event in session.events] == [1.0, 0.5]
    assert session.exit is None
    assert session.thinking_tokens == 3


def test_a_word_that_goes_on_is_no_cue(words):
    session = Session(words.watch, policy(words), words.ids("<think>"), risk=0.05)
    run(session, words.ids(" wait", "er", ","), [9.0])
    assert session.events == []
    assert session.exit is None


def test_a_token_that_confirms_one_cue_may_complete_the_next(words):
    session = Session(words.watch, policy(words), words.ids("<think>"), risk=0.05)
    run(session, words.ids(" wait", " wait", ",", " hmm."), [0.1, 0.2, 0.3])
    assert [(event.index, event.seen_at, event.score) for event in session.events] == [
        (0, 1, 0.1), (1, 2, 0.2), (3, 3, 0.3),
    ]  # fmt: skip


def test_ends_of_sentences_and_every_third_token_are_points_of_their_kind(words):
    watch = replace(words.watch, boundaries=frozenset(words.ids(",", " hmm.")))
    ids = words.ids(" a", ",", " hmm.", " wait", ",", " a", " a")
    for points in (CUE | BOUNDARY | INTERVAL, BOUNDARY, INTERVAL, CUE | INTERVAL):
        every = 3 if points & INTERVAL else 0
        session = Session(watch, policy(words, points=points, every=every), words.ids("<think>"))
        _, asked = run(session, ids)
        kinds = {(1, 1): BOUNDARY, (2, 2): ALL, (3, 4): CUE, (4, 4): BOUNDARY, (5, 5): INTERVAL}
        expected = [(*place, kind & points) for place, kind in kinds.items() if kind & points]
        assert [(event.index, event.seen_at, event.kind) for event in session.events] == expected
        assert asked == [index for index, _, _ in expected]


class Diary:
    """A rule that writes down what it is told; its score is twice the logit."""

    statistics = hidden = True

    def __init__(self):
        self.told = []

    def start(self):
        return self

    def step(self, token, statistics):
        self.told.append(("step", token, statistics))

    def steps(self, tokens, statistics):
        raise AssertionError

    def cue(self, ago):
        self.told.append(("cue", ago))

    def snapshot(self, logit):
        return logit

    def score(self, seen):
        self.told.append(("score", seen))
        return 2 * seen


def test_a_rule_reads_thinking_tokens_alone_and_scores_eligible_points_alone(words):
    rule, shown = Diary(), []
    session = Session(words.watch, policy(words, rule=rule, min_tokens=2), [], risk=0.05)
    for place, token in enumerate(words.ids("<think>", " hmm.", " wait", ",", " a", "</think>", " a")):
        logit = 0.25 if session.read(token) else None
        shown.append((session.was_thinking, session.idle))
        session.decide(logit, place)
    cue, wait, comma, plain = words.ids(" hmm.", " wait", ",", " a")
    assert rule.told == [
        ("step", cue, 1), ("cue", 0), ("step", wait, 2),
        ("step", comma, 3), ("score", 0.25), ("cue", 1), ("step", plain, 4),
    ]  # fmt: skip
    assert [event.score for event in session.events] == [pytest.approx(math.nan, nan_ok=True), 0.5]
    outside, point, between = (False, False), (True, False), (True, True)
    assert shown == [outside, point, point, point, between, outside, outside]


def test_tokens_that_show_nothing_can_be_read_at_once(words):
    ids = words.ids("<think>", " a", " a", " a", " a", " a", ",", " a", " wait", ",")

    class Told(Diary):
        def steps(self, tokens, statistics):
            for pair in zip(tokens, statistics, strict=True):
                self.step(*pair)

    def finished(session, start):
        for place, token in enumerate(ids[start:], start):
            session.decide(0.25 if session.read(token) else None, place)
        told = session.policy.rule.told
        return session.tokens, session.thinking_tokens, session.state, session.events, told

    def begun(count):
        session = Session(words.watch, policy(words, rule=Told()), [], risk=0.05)
        for place, token in enumerate(ids[:count]):
            session.decide(0.25 if session.read(token) else None, place)
        return session

    expected = finished(begun(0), 0)
    # one at a time: `advance` decides on the last token and reads the next, which `finished` decides on
    session = begun(2)
    session.read(ids[2])
    for place in (3, 4, 5):
        state = words.watch.read(session.state, ids[place]).state
        session.advance(ids[place], place - 1, state)
    session.decide(None, 5)
    assert finished(session, 6) == expected
    # and several that have been decided on
    session, state = begun(2), None
    for token in ids[2:6]:
        state = words.watch.read(state or session.state, token).state
    session.pass_over(ids[2:6], range(2, 6), state)
    assert finished(session, 6) == expected


def test_without_a_risk_nothing_exits(words):
    session = Session(words.watch, policy(words), words.ids("<think>"))
    run(session, words.ids(" wait", ",", " hmm."), [99.0, math.inf])
    assert session.exit is None
    assert len(session.events) == 2


def test_an_unscored_cue_never_exits(words):
    session = Session(words.watch, policy(words), words.ids("<think>"), risk=0.05)
    for token in words.ids(" hmm.", " a"):
        session.read(token)
        assert session.decide() is None
    assert math.isnan(session.events[0].score)


def test_shadow_records_the_exit_but_forces_nothing(words):
    session = Session(words.watch, policy(words, budget=2), words.ids("<think>"), risk=0.05, mode=Mode.SHADOW)
    ids = words.ids(" hmm.", " a", " a", " hmm.", " a")
    out, asked = run(session, ids, [2.0, 3.0])
    assert out == ids
    assert asked == [0, 3]
    assert session.exit is not None
    assert session.exit.score == 2.0
    assert not session.stopped


def test_a_budget_forces_the_exit_without_a_risk(words):
    session = Session(words.watch, policy(words, budget=2), words.ids("<think>"))
    out, _ = run(session, words.ids(" a", " a", " a", " a", " a"))
    assert out == words.ids(" a", " a", "\n\n", "</think>", " so")
    assert session.exit is not None
    assert (session.exit.reason, session.exit.cue, session.exit.thinking_tokens) == (Reason.BUDGET, -1, 2)


def test_a_budget_in_shadow_is_recorded_only(words):
    session = Session(words.watch, policy(words, budget=2), words.ids("<think>"), mode=Mode.SHADOW)
    ids = words.ids(" a", " a", " a", " a")
    assert run(session, ids)[0] == ids
    assert session.exit is not None
    assert session.exit.reason is Reason.BUDGET


def test_guards_keep_cues_from_being_decided_on(words):
    session = Session(words.watch, policy(words, min_tokens=2, cooldown=3), words.ids("<think>"), risk=0.05)
    run(session, words.ids(" hmm.", " hmm.", " hmm.", " hmm.", " hmm.", " a"), [9.0, 0.0, 9.0, 9.0, 0.5])
    assert [event.eligible for event in session.events] == [False, True, False, False, True]
    assert session.exit is None


def test_a_request_waits_for_its_block_and_answers_behind_it(words):
    session = Session(words.watch, policy(words), [], risk=0.05)
    assert session.phase is Phase.WAITING
    _, asked = run(session, words.ids(" hmm.", "<think>", " a"))
    assert (session.phase, asked, session.thinking_tokens) == (Phase.THINKING, [], 1)
    _, asked = run(session, words.ids("</think>", " hmm."))
    assert (session.phase, asked, session.thinking_tokens) == (Phase.ANSWERING, [], 1)


def test_a_later_block_is_watched_too_but_not_after_an_exit(words):
    session = Session(words.watch, policy(words), words.ids("<think>"), risk=0.05)
    run(session, words.ids("</think>", "<think>", " hmm.", " a", " a", " a"), [2.0])
    assert session.exit is not None
    assert session.exit.seen_at == 2
    _, asked = run(session, words.ids(" a", "<think>", " hmm.", " a"), [9.0])
    assert asked == []
    assert len(session.events) == 1


def test_an_engine_that_does_not_follow_ends_the_forcing(words):
    session = Session(words.watch, policy(words), words.ids("<think>"), risk=0.05)
    session.read(*words.ids(" hmm."))
    assert session.decide(2.0) == policy(words).exit_ids[0]
    session.read(*words.ids(" a"))
    assert session.decide() is None
    assert session.phase is Phase.THINKING


def test_a_finished_request_decides_nothing(words):
    session = Session(words.watch, policy(words), words.ids("<think>"), risk=0.05)
    session.finish()
    assert not session.read(*words.ids(" hmm."))
    assert session.decide(9.0) is None


def test_an_uncertified_risk_is_refused(words):
    with pytest.raises(ConfigError):
        Session(words.watch, policy(words), [], risk=0.5)


texts = st.lists(
    st.sampled_from([" a", " wait", ",", "er", " hmm.", "\n\n", "</think>", "<think>"]), max_size=30
)
guards = st.fixed_dictionaries(
    {
        "min_tokens": st.integers(0, 5),
        "cooldown": st.integers(0, 5),
        "stride": st.integers(1, 3),
        "max_points": st.none() | st.integers(1, 3),
    }
)


@given(texts, guards, st.lists(st.sampled_from([0.0, 1.0, 1.5, 3.0]), min_size=30, max_size=30))
def test_a_stopped_run_is_the_full_run_cut_at_the_replayed_exit(words, texts, guards, scores):
    ids, stop = words.ids(*texts), policy(words, **guards)
    full = Session(words.watch, stop, words.ids("<think>"), risk=0.05, mode=Mode.SHADOW)
    cut = Session(words.watch, stop, words.ids("<think>"), risk=0.05)
    run(full, ids, scores)
    out, _ = run(cut, ids, scores)
    positions = np.array([event.position for event in full.events], dtype=np.int64)
    values = np.array([event.score for event in full.events], dtype=np.float32)
    replayed = first_exit(values, eligible_mask(stop, positions), 1.0)
    assert full.exit == cut.exit
    assert replayed == (-1 if full.exit is None else full.exit.cue)
    if full.exit is None:
        assert out == ids
    else:
        seen_at = full.events[replayed].seen_at
        assert out[: seen_at + 1] == ids[: seen_at + 1]
        assert out[seen_at + 1 : seen_at + 4] == list(stop.exit_ids)[: len(out) - seen_at - 1]


def test_an_end_inside_thinking_is_closed_once(words):
    # given thinking, then an answer
    session = Session(words.watch, policy(words), words.ids("<think>"))
    run(session, words.ids(" a", " wait"))
    # when the model ends its text
    out = [session.close_thinking()]
    while out[-1] is not None:
        session.read(out[-1])
        out.append(session.decide())
    # then the exit is forced, and a second end is one
    assert out == [*policy(words).exit_ids, None]
    assert session.exit is not None
    assert (session.exit.reason, session.exit.thinking_tokens, session.phase) == (
        Reason.END,
        2,
        Phase.ANSWERING,
    )
    assert session.close_thinking() is None
    run(session, words.ids("<think>", " a"))
    assert session.close_thinking() is None
    assert not session.exit.certified


@pytest.mark.parametrize("prompt", [[], ["<think>", "</think>"]])
def test_an_end_outside_of_thinking_is_the_end(words, prompt):
    session = Session(words.watch, policy(words), words.ids(*prompt))
    assert session.close_thinking() is None
    assert session.exit is None
