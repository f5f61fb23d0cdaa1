"""Sessions of a batch, on a device and on the host, decide as the core does, on the same streams."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


from lynxstop.artifacts.probe import Probe  # noqa: E402
from lynxstop.core.cues import CueSet  # noqa: E402
from lynxstop.core.exits import Mode, Reason  # noqa: E402
from lynxstop.core.policy import Level, StopPolicy  # noqa: E402
from lynxstop.core.session import Session  # noqa: E402
from lynxstop.core.thinking import Delimiters  # noqa: E402
from lynxstop.core.watch import compile_watch  # noqa: E402
from lynxstop.engines.vllm import host_sessions  # noqa: E402
from lynxstop.engines.vllm.device_sessions import DeviceSessions  # noqa: E402
from lynxstop.engines.vllm.host_sessions import HostSessions  # noqa: E402
from lynxstop.engines.vllm.per_request import PerRequestSessions  # noqa: E402
from lynxstop.engines.vllm.product_automaton import product  # noqa: E402
from lynxstop.engines.vllm.request_options import UNWATCHED, RequestOptions  # noqa: E402
from lynxstop.engines.vllm.session_batch import COUNTERS, EXIT_KINDS, REASONS, BatchStep, SessionBatch  # noqa: E402
from tests.support.tiny_vocabulary import make_tokenizer  # noqa: E402

SPECIAL = ("<think>", "</think>", "<|end|>")
PLAIN = ("Wait", "ĠWait", "Hmm", "Hmm,", "er", "Ġ", ".", "a", "Ġso", "ĠWait,Ġhmm", "Ċ", "=", "Ã", "©")
VOCABULARY = len(SPECIAL) + len(PLAIN)
EXIT = (10, 1, 9)
RISK = 0.05

WATCH = compile_watch(
    make_tokenizer(SPECIAL, PLAIN), CueSet(("wait", "hmm")), Delimiters(("<think>",), ("</think>",))
)
MACHINE = product(WATCH)
PROBE = Probe((0,), ((np.ones((1, 1), np.float32), np.zeros(1, np.float32)),))

tokens = st.integers(0, VOCABULARY - 1)
thinkish = st.sampled_from([3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 1])
policies = st.builds(
    lambda minimum, cooldown, budget, stride, most, tilt: StopPolicy(
        EXIT, (Level(RISK, 0.0),), minimum, cooldown, budget, stride=stride, max_points=most, tilt=tilt
    ),
    st.integers(0, 4), st.integers(0, 4), st.none() | st.integers(1, 12), st.integers(1, 3),
    st.none() | st.integers(1, 3), st.sampled_from([0.0, 0.4, 1.5]),
)  # fmt: skip


KINDS = ("device", "host")
Make = Callable[[StopPolicy, int], SessionBatch]


def make(kind: str, policy: StopPolicy, rows: int) -> SessionBatch:
    if kind == "host":
        return HostSessions(WATCH, policy, PROBE, rows + 1, 2)
    if kind == "request":
        return PerRequestSessions(MACHINE, policy, PROBE, torch.device("cpu"), rows + 1, 2)
    return DeviceSessions(MACHINE, policy, PROBE, torch.device("cpu"), rows + 1, 2)


@pytest.fixture(params=KINDS)
def sessions_for(request: pytest.FixtureRequest) -> Make:
    return partial(make, request.param)


def drive(
    sessions: SessionBatch,
    fed: list[int],
    scores: list[float],
    read: list[bool] | None = None,
    slots: list[int] | None = None,
) -> list[int | None]:
    """Read one token per row; return the tokens that are forced next."""
    mask = None if read is None else np.array(read)
    where = np.arange(len(fed)) if slots is None else np.array(slots)
    return serve(sessions, BatchStep(where, torch.tensor(fed), None, mask, lambda rows: []), scores)


def serve(sessions: SessionBatch, step: BatchStep, scores: list[float]) -> list[int | None]:
    """Read a step; return the tokens that are forced next."""
    values = torch.tensor(scores, dtype=torch.float32).unsqueeze(1)
    logits = torch.zeros(len(values), VOCABULARY)
    sessions.observe(step, lambda rows: values if rows is None else values[rows], logits)
    sessions.force(logits)
    return [int(row.argmax()) if row.max() > 1e8 else None for row in logits]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(
    policy=policies,
    room=st.sampled_from([0, 1, 2, 256]),
    mode=st.sampled_from(Mode),
    prompts=st.lists(st.lists(tokens, max_size=6), min_size=1, max_size=3),
    data=st.data(),
)
def test_sessions_of_a_batch_equal_core_sessions(
    kind: str, policy: StopPolicy, room: int, mode: Mode, prompts: list[list[int]], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_sessions, "_ROOM", room)
        compare(make(kind, policy, len(prompts)), policy, mode, prompts, data)


def compare(
    batch: SessionBatch, policy: StopPolicy, mode: Mode, prompts: list[list[int]], data: st.DataObject
) -> None:
    # given the same requests in the core and in a batch
    core = [Session(WATCH, policy, prompt, risk=RISK, mode=mode) for prompt in prompts]
    for slot, prompt in enumerate(prompts):
        batch.admit(slot, prompt, RequestOptions(True, 0.0, policy.budget, mode is Mode.STOP))
    # when: both read the same tokens and scores, sometimes disobeying a forced token
    wanted: list[int | None] = [None] * len(prompts)
    for _ in range(data.draw(st.integers(1, 25))):
        free = data.draw(st.lists(thinkish, min_size=len(prompts), max_size=len(prompts)))
        disobey = data.draw(st.integers(0, 9)) == 0
        fed = [
            token if force is None or disobey else force for token, force in zip(free, wanted, strict=True)
        ]
        scores = data.draw(
            st.lists(st.sampled_from([-1.0, 1.0, math.nan]), min_size=len(prompts), max_size=len(prompts))
        )
        expected = []
        for session, token, score in zip(core, fed, scores, strict=True):
            asked = session.read(token)
            expected.append(session.decide(score if asked else None))
        wanted = drive(batch, fed, scores)
        # then: both force the same tokens
        assert wanted == expected
    # and show the same exits, and which blocks are open
    for row, session in enumerate(core):
        tokens, reason = divmod(int(batch.exits()[0, row]), EXIT_KINDS)
        score = float(batch.exits()[1, row : row + 1].view(torch.float32))
        taken = session.exit
        expected_exit = (None, 0) if taken is None else (taken.reason, taken.thinking_tokens)
        assert (REASONS[reason], tokens) == expected_exit
        assert taken is None or score == pytest.approx(taken.score, nan_ok=True)
        watched = session.mode is Mode.STOP and not session.stopped
        assert bool(batch.inside()[row]) == (watched and session.inside)
    # and count the same
    counts = dict(zip(COUNTERS, batch.counters.tolist(), strict=True))
    exits = [session.exit for session in core if session.exit is not None]
    assert counts["cues"] == sum(len(session.events) for session in core)
    assert counts["exits_score"] == sum(exit.reason is Reason.SCORE for exit in exits)
    assert counts["exits_budget"] == sum(exit.reason is Reason.BUDGET for exit in exits)
    assert counts["exit_tokens"] == sum(exit.thinking_tokens for exit in exits)


def test_a_step_that_reads_nothing_changes_nothing(
    sessions_for: Make,
) -> None:
    # given a request between a cue and its confirmation
    batch = sessions_for(StopPolicy(EXIT, (Level(RISK, 0.0),)), 1)
    batch.admit(0, [0], RequestOptions(True, 0.0))
    assert drive(batch, [4], [1.0]) == [None]
    # when steps recompute its history, as after a preemption, with other scores
    for token in (10, 4, 9):
        drive(batch, [token], [-1.0], read=[False])
    # then the confirmation still stops it
    assert drive(batch, [9], [-1.0]) == [EXIT[0]]


def test_state_survives_leaving_and_moving_rows(
    sessions_for: Make,
) -> None:
    # given two requests, one of them between a cue and its confirmation
    batch = sessions_for(StopPolicy(EXIT, (Level(RISK, 0.0),)), 2)
    for slot in (0, 1):
        batch.admit(slot, [0], RequestOptions(True, 0.0))
    assert drive(batch, [10, 4], [0.0, 1.0]) == [None, None]
    # when it leaves, and comes back into another slot and row
    parked = batch.park(1)
    drive(batch, [10], [0.0])
    batch.resume(2, parked)
    # then the confirmation still stops it, with the score taken before it left
    assert drive(batch, [9, 10], [-1.0, -1.0], slots=[2, 0]) == [EXIT[0], None]


def test_rows_that_do_not_read_keep_their_state_while_being_forced(
    sessions_for: Make,
) -> None:
    # given a request in the middle of its exit
    batch = sessions_for(StopPolicy(EXIT, (Level(RISK, 0.0),)), 1)
    batch.admit(0, [0], RequestOptions(True, 0.0))
    assert drive(batch, [4], [1.0]) == [None]
    assert drive(batch, [9], [0.0]) == [EXIT[0]]
    assert drive(batch, [EXIT[0]], [0.0]) == [EXIT[1]]
    # when a step feeds it part of its history, and then its last token
    assert drive(batch, [4], [1.0], [False]) == [EXIT[1]]
    # then it goes on where it stood, and never stops again
    assert drive(batch, [EXIT[1]], [0.0]) == [EXIT[2]]
    assert drive(batch, [EXIT[2]], [0.0]) == [None]
    assert drive(batch, [0], [1.0]) == [None]
    assert drive(batch, [4], [1.0]) == drive(batch, [9], [1.0]) == [None]


def test_a_structured_request_is_forced_to_the_end_of_thinking_only(
    sessions_for: Make,
) -> None:
    # given a request whose grammar takes over behind the thinking block
    batch = sessions_for(StopPolicy(EXIT, (Level(RISK, 0.0),)), 1)
    batch.admit(0, [0], RequestOptions(True, 0.0, structured=True))
    drive(batch, [4], [1.0])
    # when it is stopped, then the tokens up to </think> are forced, and none behind it
    assert [drive(batch, [token], [0.0]) for token in (9, EXIT[0], EXIT[1])] == [
        [EXIT[0]],
        [EXIT[1]],
        [None],
    ]


def test_shadow_counts_a_budget_but_never_forces(
    sessions_for: Make,
) -> None:
    # given a request in shadow mode with a budget
    batch = sessions_for(StopPolicy(EXIT, (Level(RISK, 0.0),), budget=2), 1)
    batch.admit(0, [0], RequestOptions(True, 5.0, budget=2, stops=False))
    # when it thinks beyond it, then nothing is forced and one exit is counted
    assert [drive(batch, [10], [0.0]) for _ in range(5)] == [[None]] * 5
    assert batch.counters[COUNTERS.index("exits_budget")] == 1


def test_unwatched_rows_show_nothing(sessions_for: Make) -> None:
    # given a request that lynxstop leaves alone
    batch = sessions_for(StopPolicy(EXIT, (Level(RISK, 0.0),), budget=1), 1)
    batch.admit(0, [0], UNWATCHED)
    # when it writes a cue, then nothing is counted or forced
    assert drive(batch, [4], [1.0]) == drive(batch, [9], [1.0]) == [None]
    assert batch.counters.sum() == 0


@pytest.mark.parametrize("visible", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_never_exit(sessions_for: Make, visible: bool, value: float) -> None:
    # given a request at a cue, with features that are not finite
    batch = sessions_for(StopPolicy(EXIT, (Level(RISK, -1e9),)), 1)
    batch.admit(0, [0], RequestOptions(True, -1e9))
    # when the cue is proven, then nothing is forced, and the score is counted as lost
    assert drive(batch, [4], [value]) == drive(batch, [9], [0.0]) == [None]
    assert batch.counters[COUNTERS.index("not_finite")] == 1


@pytest.mark.parametrize("kind", ["host", "request"])
def test_a_token_that_ends_one_text_and_not_another_is_read_as_each_request_means_it(kind: str) -> None:
    # given two requests, of which only the second ends at a token that decides nothing otherwise
    batch = make(kind, StopPolicy(EXIT, (Level(RISK, 0.0),), 0, 0, 9), 2)
    ending, cue = (len(SPECIAL) + PLAIN.index(text) for text in (".", "Hmm,"))
    batch.admit(0, [0], RequestOptions(True, 0.0, 9))
    drive(batch, [ending], [0.0])
    batch.admit(1, [0], RequestOptions(True, 0.0, 9, ends=frozenset({ending})))
    # when both read it, and a cue after it
    assert drive(batch, [10, 10], [0.0, 0.0]) == [None, None]
    assert drive(batch, [ending, ending], [0.0, 0.0]) == [None, None]
    # then only the first goes on
    assert drive(batch, [cue, cue], [1.0, 1.0]) == [EXIT[0], None]
    # and the second one had read what came before its end
    assert batch.shown()[1].tolist() == [4, 1]
