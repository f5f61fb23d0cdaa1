"""Sessions that read several drafts at once decide as the core does, however many drafts are accepted."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from lynxstop.core.exits import Mode, Reason  # noqa: E402
from lynxstop.core.policy import Level, StopPolicy  # noqa: E402
from lynxstop.core.session import Session  # noqa: E402
from lynxstop.engines.vllm.drafted_sessions import DraftedSessions  # noqa: E402
from lynxstop.engines.vllm.request_options import RequestOptions  # noqa: E402
from lynxstop.engines.vllm.session_batch import (  # noqa: E402
    COUNTERS,
    EXIT_KINDS,
    REASONS,
    BatchStep,
    Drafts,
)
from tests.vllm.test_sessions import MACHINE, PROBE, RISK, VOCABULARY, WATCH, policies  # noqa: E402

DRAFTS, LENGTH, SLOTS = 3, 24, 4
THINKISH = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 1)


def number(history: list[int]) -> int:
    """A number that depends on the whole history of a request, as a model's state does."""
    return int.from_bytes(hashlib.sha256(bytes(history)).digest()[:4], "little")


def free_token(history: list[int]) -> int:
    """What the model would generate next."""
    return THINKISH[number(history) % len(THINKISH)]


def score(history: list[int]) -> float:
    """Logit of the probe at the last token."""
    return (-1.0, 1.0, math.nan)[number([*history, 7]) % 3]


def alone(
    policy: StopPolicy, mode: Mode, prompt: list[int], length: int = LENGTH
) -> tuple[list[int], Session]:
    """Generate a request without drafts, by the core; its session has read all tokens but the last."""
    session = Session(WATCH, policy, prompt, risk=RISK, mode=mode)
    history, forced = list(prompt), None
    for made in range(length):
        history.append(free_token(history) if forced is None else forced)
        if made < length - 1:
            asked = session.read(history[-1])
            forced = session.decide(score(history) if asked else None)
    return history, session


class Engine:
    """One decoding step after another, as the second runner lays its rows out."""

    def __init__(self, sessions: DraftedSessions, coming: list[list[int]], prompts: list[list[int]]) -> None:
        self.sessions, self.coming = sessions, coming
        self.history = [list(prompt) for prompt in prompts]
        self.prompts = prompts
        self.accepted: Counter[int] = Counter()

    def step(
        self, slots: list[int], right: list[int], partial: list[bool], most: list[int] | None = None
    ) -> None:
        """Run requests (slot i is request i); of each one's drafts, `most`, the first `right` are right."""
        rows: list[list[int]] = []
        most = [DRAFTS] * len(slots) if most is None else most
        for slot, correct, limit in zip(slots, right, most, strict=True):
            history = self.history[slot]
            fresh = len(history) == len(self.prompts[slot])
            coming = self.coming[slot][len(history) :][:limit]
            drafts = [t if i < correct else (t + 1) % VOCABULARY for i, t in enumerate(coming)]
            rows.append([history[-1], *([-1] * len(drafts) if fresh else drafts)])
        counts = np.array([len(row) for row in rows])
        starts = np.cumsum(counts) - counts
        at = [len(self.history[slot]) - 1 - 2 * held for slot, held in zip(slots, partial, strict=True)]
        positions = [first + i for first, row in zip(at, rows, strict=True) for i in range(len(row))]
        seen = [
            self.history[slot] + row[1 : i + 1]
            for slot, row in zip(slots, rows, strict=True)
            for i in range(len(row))
        ]
        values = torch.tensor([[math.nan if -1 in one else score(one)] for one in seen])
        read = np.array([len(self.history[s]) > len(self.prompts[s]) for s in slots]) & ~np.array(partial)
        drafts_of = Drafts(starts, counts, torch.tensor(positions), np.array(partial))
        tokens = torch.tensor([token for row in rows for token in row])
        step = BatchStep(np.array(slots), tokens, None, read, lambda _: [], drafts_of)
        logits = torch.zeros(len(tokens), VOCABULARY)
        for row, one in enumerate(seen):
            if -1 not in one:
                logits[row, free_token(one)] = 1.0
        self.sessions.observe(step, lambda rows: values if rows is None else values[rows], logits)
        self.sessions.force(logits)
        wanted: list[int] = logits.argmax(dim=1).tolist()
        for slot, drafted, start, held in zip(slots, rows, starts.tolist(), partial, strict=True):
            if not held:
                self._verify(slot, drafted, wanted[start : start + len(drafted)])

    def _verify(self, slot: int, row: list[int], wanted: list[int]) -> None:
        """Greedy rejection: drafts count as far as they are what the model wants, and one token more."""
        taken = 0
        while taken < len(row) - 1 and row[taken + 1] == wanted[taken]:
            taken += 1
        self.accepted[taken] += 1
        self.history[slot] += wanted[: taken + 1]


@settings(max_examples=25, deadline=None)
@given(
    policy=policies,
    mode=st.sampled_from(Mode),
    prompts=st.lists(st.lists(st.sampled_from(THINKISH), min_size=3, max_size=6), min_size=1, max_size=SLOTS),
    seed=st.integers(0, 2**32 - 1),
)
def test_drafts_change_no_token_and_no_count(
    policy: StopPolicy, mode: Mode, prompts: list[list[int]], seed: int
) -> None:
    # given requests, and what the core makes of them token by token
    plain = [alone(policy, mode, prompt) for prompt in prompts]
    sessions = DraftedSessions(MACHINE, policy, PROBE, torch.device("cpu"), SLOTS + 1, 2, drafts=DRAFTS)
    for slot, prompt in enumerate(prompts):
        sessions.admit(slot, prompt, RequestOptions(True, 0.0, policy.budget, mode is Mode.STOP))
    engine = Engine(sessions, [history for history, _ in plain], prompts)
    # when: they are drafted, joining and sitting out steps, preempted, and read in chunks on their way back
    draw = np.random.default_rng(seed)
    told: set[tuple[int, int]] = set()
    ends = [len(prompt) + LENGTH for prompt in prompts]
    while running := [s for s, end in enumerate(ends) if len(engine.history[s]) < end]:
        slots = draw.permutation(running)[: draw.integers(1, len(running) + 1)].tolist()
        right = draw.integers(0, DRAFTS + 1, len(slots)).tolist()
        most = draw.integers(0, DRAFTS + 1, len(slots)).tolist()
        engine.step(slots, right, (draw.random(len(slots)) < 0.2).tolist(), most)
        told |= {pair for pair in zip(slots, sessions.exits()[0].tolist(), strict=True) if pair[1]}
        if draw.random() < 0.5:
            slot = int(draw.choice(running))
            for _ in range(draw.integers(1, 3)):
                parked = sessions.park(slot)
                sessions.admit(slot, [0], RequestOptions(False))
                sessions.unstage()  # another request has been there in a step
                sessions.resume(slot, parked)
    # then: their tokens are the same
    for slot, (history, _) in enumerate(plain):
        assert engine.history[slot][: len(history)] == history
    # and: once the last step is settled, all is counted as the core counts it up to there
    lengths = [len(history) for history in engine.history]
    sessions.settle(list(range(len(prompts))), torch.tensor(lengths))
    counts = dict(zip(COUNTERS, sessions.counters.tolist(), strict=True))
    done = [alone(policy, mode, p, n - len(p))[1] for p, n in zip(prompts, lengths, strict=True)]
    exits = [session.exit for session in done if session.exit is not None]
    assert counts["lost"] == 0
    # and: no exit of a rejected draft is reported
    assert told <= {
        (slot, session.exit.thinking_tokens * EXIT_KINDS + REASONS.index(session.exit.reason))
        for slot, session in enumerate(done)
        if session.exit is not None
    }
    assert counts["cues"] == sum(len(session.events) for session in done)
    assert counts["exits_score"] == sum(exit.reason is Reason.SCORE for exit in exits)
    assert counts["exits_budget"] == sum(exit.reason is Reason.BUDGET for exit in exits)
    assert counts["exit_tokens"] == sum(exit.thinking_tokens for exit in exits)


def test_every_number_of_drafts_is_accepted() -> None:
    # given a request of which drafts are right as often as we say
    policy, prompt = StopPolicy((10, 1, 9), (Level(RISK, 0.0),)), [3, 0, 12]
    history, _ = alone(policy, Mode.SHADOW, prompt)
    sessions = DraftedSessions(MACHINE, policy, PROBE, torch.device("cpu"), 2, 2, drafts=DRAFTS)
    sessions.admit(0, prompt, RequestOptions(True, math.inf))
    engine = Engine(sessions, [history], [prompt])
    # when it is generated, then each number of accepted drafts occurs
    for right in [0, 0, 1, 2, 3]:
        engine.step([0], [right], [False])
    assert set(engine.accepted) == set(range(DRAFTS + 1))
    assert engine.history[0] == history[: len(engine.history[0])]


def test_a_position_that_was_never_reached_loses_the_request() -> None:
    # given a request whose tokens went on without its session
    policy, prompt = StopPolicy((10, 1, 9), (Level(RISK, 0.0),)), [3, 0, 12]
    history, _ = alone(policy, Mode.STOP, prompt)
    sessions = DraftedSessions(MACHINE, policy, PROBE, torch.device("cpu"), 2, 2, drafts=DRAFTS)
    sessions.admit(0, prompt, RequestOptions(True, -math.inf))
    engine = Engine(sessions, [history], [prompt])
    engine.history[0] += [12] * (DRAFTS + 3)
    # when it comes back, then it is counted as lost, once, and left alone
    for _ in range(3):
        engine.step([0], [0], [False])
    assert sessions.counters[COUNTERS.index("lost")] == 1
    assert not sessions.counters[: COUNTERS.index("lost")].any()


def test_a_position_behind_an_empty_place_loses_the_request() -> None:
    # given a new request whose step had places for drafts, and none in them
    policy, prompt = StopPolicy((10, 1, 9), (Level(RISK, 0.0),)), [3, 0, 12]
    history, _ = alone(policy, Mode.SHADOW, prompt)
    sessions = DraftedSessions(MACHINE, policy, PROBE, torch.device("cpu"), 2, 2, drafts=DRAFTS)
    sessions.admit(0, prompt, RequestOptions(True, math.inf))
    engine = Engine(sessions, [history], [prompt])
    engine.step([0], [0], [False])
    # when it goes on from a token that no row has read, then it is lost
    engine.history[0] += [12]
    engine.step([0], [0], [False])
    assert sessions.counters[COUNTERS.index("lost")] == 1


def test_after_an_error_the_requests_of_the_batch_are_left_alone() -> None:
    # given a watched request in mid-thought whose policy would stop it at its first cue
    policy, prompt = StopPolicy((10, 1, 9), (Level(RISK, 0.0),), budget=3), [3, 0, 12]
    history, _ = alone(policy, Mode.SHADOW, prompt)
    sessions = DraftedSessions(MACHINE, policy, PROBE, torch.device("cpu"), 3, 2, drafts=DRAFTS)
    sessions.admit(1, prompt, RequestOptions(True, -math.inf, 3))
    engine = Engine(sessions, [[], history], [[], prompt])
    engine.step([1], [1], [False])
    # when an error drops the batch, then nothing is decided or lost any more
    sessions.drop()
    for _ in range(4):
        engine.step([1], [1], [False])
    assert not sessions.counters.any()
    assert engine.history[1] == history[: len(engine.history[1])]
