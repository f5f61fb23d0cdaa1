"""The kernel decides as the array forms do, bit for bit given the same scores, in Triton's interpreter.

Run by `test_fused_kernel.py`, in a process of its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 from the start", allow_module_level=True)

torch = pytest.importorskip("torch")

from lynxstop.artifacts.probe import Probe  # noqa: E402
from lynxstop.core.policy import Level, StopPolicy  # noqa: E402
from lynxstop.engines.vllm.attach import make_sessions  # noqa: E402
from lynxstop.engines.vllm.device_sessions import FORCED, PENDING, STATE, DeviceSessions  # noqa: E402
from lynxstop.engines.vllm.drafted_sessions import BASE, READ, DraftedSessions  # noqa: E402
from lynxstop.engines.vllm.fused_sessions import FusedSessions  # noqa: E402
from lynxstop.engines.vllm.hidden import HiddenStates, RowFeatures  # noqa: E402
from lynxstop.engines.vllm.host_sessions import HostSessions  # noqa: E402
from lynxstop.engines.vllm.product_automaton import DEAD  # noqa: E402
from lynxstop.engines.vllm.request_options import UNWATCHED, RequestOptions  # noqa: E402
from lynxstop.engines.vllm.session_batch import COUNTERS, BatchStep, Drafts  # noqa: E402
from lynxstop.engines.vllm.settings import PluginSettings  # noqa: E402
from lynxstop.engines.vllm.text_ends import TextEnds  # noqa: E402
from tests.vllm.test_sessions import EXIT, MACHINE, RISK, VOCABULARY  # noqa: E402

# numpy, which computes in the interpreter, warns of infinity minus infinity
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")

SLOTS, STEPS, WIDTH = 5, 40, 3
TOKENS = (3, 4, 4, 5, 6, 7, 8, 9, 10, 10, 11, 12) * 3 + (0, 1)
LEVELS = (-math.inf, 0.0, 0.25, 1.0, math.inf)
SCORES = (-1.0, 0.0, 0.25, 0.6, 1.0, math.nan, math.inf)
# The score is the first feature alone, whatever order sums are taken in: both forms compare the same number.
FIRST = Probe((0,), ((np.eye(1, WIDTH, dtype=np.float32), np.zeros(1, np.float32)),))

policies = st.builds(
    lambda minimum, cooldown, stride, most, tilt: StopPolicy(
        EXIT, (Level(RISK, 0.0),), minimum, cooldown, stride=stride, max_points=most, tilt=tilt
    ),
    st.integers(0, 3), st.integers(0, 3), st.integers(1, 2), st.none() | st.integers(1, 3),
    st.sampled_from([0.0, 0.3, 0.7]),
)  # fmt: skip


def both(policy: StopPolicy, probe: Probe = FIRST) -> tuple[Any, Any]:
    """The array form, and the kernel over another one."""
    given_ = (MACHINE, policy, probe, torch.device("cpu"), SLOTS + 1, 2)
    return DeviceSessions(*given_), FusedSessions(DeviceSessions(*given_))


def options(draw: np.random.Generator) -> RequestOptions:
    if draw.random() < 0.15:
        return UNWATCHED
    budget = None if draw.random() < 0.6 else int(draw.integers(1, 9))
    stops, structured = bool(draw.random() < 0.8), bool(draw.random() < 0.2)
    ends = frozenset(draw.choice((10, 11), draw.integers(3)).tolist()) if draw.random() < 0.3 else frozenset()
    limit = int(draw.integers(8, 40)) if draw.random() < 0.3 else None
    threshold = float(draw.choice(LEVELS))
    return RequestOptions(True, threshold, budget, stops, structured=structured, ends=ends, limit=limit)


def run(sessions: Any, step: BatchStep, features: Any, *, asked: bool = False) -> Any:
    """Serve a step; the logits afterwards. Its exits are `asked` for before, as reports do."""
    logits = torch.arange(len(step.tokens) * VOCABULARY, dtype=torch.float32).reshape(-1, VOCABULARY) % 7
    taken = features if callable(features) else lambda rows: features if rows is None else features[rows]
    sessions.observe(step, taken, logits)
    if asked:
        sessions.exits()
    sessions.force(logits)
    return logits


def states_of(sessions: DeviceSessions) -> Any:
    """States that a later step may go on from, without the last score and what is left alone."""
    sessions.load(np.arange(SLOTS + 1))
    sessions._write_back()
    found = sessions.states.clone()
    found[PENDING] = 0
    found[:, (found[STATE] == DEAD) & (found[FORCED] < 0)] = 0
    return found


class Stream:
    """Random steps of random requests, with what either form wanted forced mostly obeyed."""

    def __init__(self, draw: np.random.Generator) -> None:
        self.draw = draw
        self.ends = TextEnds(SLOTS + 1)
        self.wanted = [-1] * SLOTS

    def step(self) -> tuple[BatchStep, Any]:
        draw = self.draw
        slots = draw.permutation(SLOTS)[: draw.integers(1, SLOTS + 1)]
        many = len(slots)
        tokens = draw.choice(TOKENS, many)
        for row, slot in enumerate(slots):
            if self.wanted[slot] >= 0 and draw.random() < 0.8:
                tokens[row] = self.wanted[slot]
        features = torch.zeros(many, WIDTH)
        near = draw.uniform(-1, 2, many)
        features[:, 0] = torch.from_numpy(np.where(draw.random(many) < 0.5, draw.choice(SCORES, many), near))
        read = None if draw.random() < 0.5 else draw.random(many) < 0.8
        return BatchStep(slots, torch.tensor(tokens), None, read, lambda _: [], ends=self.ends), features


@settings(max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(policy=policies, seed=st.integers(0, 2**32 - 1))
def test_the_kernel_equals_the_array_form(policy: StopPolicy, seed: int) -> None:
    # given: the same requests, levels, budgets and modes in both forms
    draw = np.random.default_rng(seed)
    arrays, fused = both(policy)
    stream = Stream(draw)

    def admit(slot: int) -> None:
        terms = options(draw)
        stream.ends.enter(slot, terms)
        for one in (arrays, fused):
            one.admit(slot, [0, 12, 3, 4, 10, 10], terms)

    for slot in range(SLOTS):
        admit(slot)
    for _ in range(STEPS):
        # and: new requests in the place of others
        if draw.random() < 0.2:
            slot = int(draw.integers(SLOTS))
            admit(slot)
            stream.wanted[slot] = -1
        # when: rows come in any order and number, with ties, NaN and tokens that disobey
        step, features = stream.step()
        asked = bool(draw.random() < 0.5)
        expected, found = run(arrays, step, features), run(fused, step, features, asked=asked)
        # then: the same tokens are forced, and the same is counted
        assert torch.equal(expected, found)
        assert fused.counters[COUNTERS.index("kernel_failures")] == 0
        assert arrays.counters.tolist() == fused.counters.tolist()
        for row, slot in enumerate(step.slots.tolist()):
            stream.wanted[slot] = int(found[row].argmax()) if found[row].max() > 1e8 else -1
        assert torch.equal(arrays.exits(), fused.exits())
        assert torch.equal(arrays.inside(), fused.inside())
        assert arrays.candidates().tolist() == fused.candidates().tolist()
        at = arrays.candidates()
        for one, other in zip(arrays.shown(), fused.shown(), strict=True):
            assert torch.equal(one[at].nan_to_num(9), other[at].nan_to_num(9))
        # and: after requests leave and come back in other slots, the states are the same
        if draw.random() < 0.3:
            one, other = draw.permutation(SLOTS)[:2].tolist()
            for sessions in (arrays, fused):
                parked = sessions.park(one), sessions.park(other)
                sessions.resume(one, parked[1])
                sessions.resume(other, parked[0])
            stream.wanted[one], stream.wanted[other] = stream.wanted[other], stream.wanted[one]
    expected, found = states_of(arrays), states_of(fused.arrays)
    assert torch.equal(expected, found)


DRAFTS, LAYERS = 3, 2
# The score is the first feature of the tapped layer plus that of the last one.
TWO = Probe((1, 2), ((np.eye(WIDTH, dtype=np.float32)[[0, 0]].reshape(1, -1), np.zeros(1, np.float32)),))


def hidden_with(buffer: Any) -> HiddenStates:
    """Hidden states of two layers; the first one's are given by place."""
    made = HiddenStates.__new__(HiddenStates)
    made._layers, made._depth, made._buffers = TWO.layers, LAYERS, {1: buffer}
    return made


class DraftedStream:
    """Random steps of requests with drafts: any number of them is accepted; some sit out, some are held."""

    def __init__(self, draw: np.random.Generator) -> None:
        self.draw = draw
        self.ends = TextEnds(SLOTS + 1)
        self.base = [5] * SLOTS
        self.read = [0] * SLOTS
        self.wanted: list[list[int]] = [[] for _ in range(SLOTS)]

    def admit(self, slot: int) -> None:
        self.base[slot], self.read[slot], self.wanted[slot] = 5, 0, []

    def swap(self, one: int, other: int) -> None:
        every: tuple[list[Any], ...] = (self.base, self.read, self.wanted)
        for known in every:
            known[one], known[other] = known[other], known[one]

    def step(self) -> tuple[BatchStep, RowFeatures]:
        draw = self.draw
        slots = draw.permutation(SLOTS)[: draw.integers(1, SLOTS + 1)]
        many = len(slots)
        counts, held = draw.integers(1, DRAFTS + 2, many), draw.random(many) < 0.15
        starts = np.cumsum(counts) - counts
        tokens = draw.choice(TOKENS, counts.sum())
        positions = np.zeros(len(tokens), dtype=np.int64)
        for slot, count, start, stays in zip(slots, counts, starts, held, strict=True):
            taken = int(self.read[slot] if draw.random() < 0.5 else draw.integers(0, self.read[slot] + 1))
            if draw.random() < 0.03:
                taken += int(draw.choice([-DRAFTS - 2, DRAFTS + 2]))
            positions[start : start + count] = self.base[slot] + taken + np.arange(count)
            self._obey(tokens[start : start + count], slot, taken)
            if not stays:
                gone = np.flatnonzero(tokens[start : start + count] < 0)
                self.base[slot] += taken
                self.read[slot] = int(gone[0]) if len(gone) else int(count)
        read = None if draw.random() < 0.5 else draw.random(many) < 0.85
        drafts = Drafts(starts, counts, torch.tensor(positions), held)
        places = torch.tensor(draw.permutation(2 * len(tokens))[: len(tokens)])
        step = BatchStep(slots, torch.tensor(tokens), places, read, lambda _: [], drafts, self.ends)
        return step, self._features(places)

    def _obey(self, tokens: Any, slot: int, taken: int) -> None:
        """Make most tokens those that are forced, some drafts the rest of the exit, and a few no drafts."""
        known = self.wanted[slot]
        if 0 < taken <= len(known) and known[taken - 1] >= 0 and self.draw.random() < 0.8:
            tokens[0] = known[taken - 1]
        for ahead in range(1, len(tokens)):
            if tokens[ahead - 1] in EXIT[:-1] and self.draw.random() < 0.6:
                tokens[ahead] = EXIT[EXIT.index(tokens[ahead - 1]) + 1]
        if self.draw.random() < 0.15:
            tokens[self.draw.integers(0, len(tokens)) :] = -1

    def _features(self, places: Any) -> RowFeatures:
        draw, many = self.draw, len(places)
        buffer, last = torch.full((2 * many, WIDTH), 9.0), torch.zeros(many, WIDTH)
        near = draw.uniform(-1, 2, many)
        chosen = torch.from_numpy(np.where(draw.random(many) < 0.5, draw.choice(SCORES, many), near))
        buffer[places, 0] = chosen.float()
        last[:, 0] = torch.from_numpy(draw.choice([0.0, 0.25], many))
        return RowFeatures(hidden_with(buffer), last, places)

    def note(self, step: BatchStep, logits: Any) -> None:
        """Note what was forced behind each row."""
        assert step.drafts is not None
        behind = torch.where(logits.max(dim=1).values > 1e8, logits.argmax(dim=1), -1).tolist()
        places = zip(step.slots, step.drafts.starts, step.drafts.counts, step.drafts.partial, strict=True)
        for slot, start, count, held in places:
            if not held:
                self.wanted[slot] = behind[start : start + count]


def kept_of(sessions: DraftedSessions) -> Any:
    """Kept states that a later step may go on from, without the last score."""
    sessions.unstage()
    kept = sessions.states.clone()
    kept[:, PENDING] = 0
    kept[1:, BASE:] = 0
    beyond = torch.arange(len(kept)).unsqueeze(1) > kept[0, READ]
    return kept.masked_fill(beyond.unsqueeze(1), 0)


def compare_with_drafts(policy: StopPolicy, seed: int, change: Callable[[int], None] = lambda _: None) -> Any:
    """Run random requests with drafts in both forms, and compare them after every step; the counters.

    `change` is called with the number of each step before it.
    """
    draw = np.random.default_rng(seed)
    given_ = (MACHINE, policy, TWO, torch.device("cpu"), SLOTS + 1, 2)
    arrays = DraftedSessions(*given_, drafts=DRAFTS)
    fused = FusedSessions(DraftedSessions(*given_, drafts=DRAFTS))
    inner, both_ = fused.arrays, (arrays, fused)
    assert isinstance(inner, DraftedSessions)
    stream = DraftedStream(draw)
    told: list[Any] = []

    def admit(slot: int) -> None:
        terms = options(draw)
        for one in both_:
            one.admit(slot, [0, 12, 3, 4, 10, 10], terms)
        stream.ends.enter(slot, terms)
        stream.admit(slot)

    for slot in range(SLOTS):
        admit(slot)
    for number in range(STEPS):
        change(number)
        # when: requests of any number of rows, in any order
        step, features = stream.step()
        asked = bool(draw.random() < 0.5)
        expected, found = run(arrays, step, features), run(fused, step, features, asked=asked)
        # then: the same is forced, reported, counted and kept
        assert torch.equal(expected, found)
        assert torch.equal(arrays.exits(), fused.exits())
        assert arrays.counters[:-1].tolist() == fused.counters[:-1].tolist()
        assert torch.equal(kept_of(arrays), kept_of(inner))
        stream.note(step, found)
        # and: requests change their slots, end, or are left alone after an error
        event, (one, other) = draw.random(), draw.permutation(SLOTS)[:2].tolist()
        if event < 0.2:
            for sessions in both_:
                parked = sessions.park(one), sessions.park(other)
                sessions.resume(one, parked[1])
                sessions.resume(other, parked[0])
            stream.swap(one, other)
        elif event < 0.7:
            for sessions in both_:
                end = stream.base[one] + int(stream.read[one] > 0)
                told.append(sessions.settle([one], torch.tensor([end + 1])))
            assert torch.equal(told[-2], told[-1])
            assert arrays.counters[:-1].tolist() == fused.counters[:-1].tolist()
            admit(one)
        elif event < 0.72:
            for sessions in both_:
                sessions.drop()
    return fused.counters


@settings(max_examples=3, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(policy=policies, seed=st.integers(0, 2**32 - 1))
def test_the_kernel_equals_the_array_form_with_drafts(policy: StopPolicy, seed: int) -> None:
    assert compare_with_drafts(policy, seed)[COUNTERS.index("kernel_failures")] == 0


def test_all_that_is_counted_occurs_with_drafts() -> None:
    # given some of the streams above, then none of the counters is compared at zero only
    found = sum(
        compare_with_drafts(StopPolicy(EXIT, (Level(RISK, 0.0),), tilt=0.3), seed) for seed in range(2)
    )
    counted = {name for name, count in zip(COUNTERS, found.tolist(), strict=True) if count}
    assert counted == set(COUNTERS) - {"exits_loop", "kernel_failures"}


@pytest.mark.parametrize("drafts", [None, DRAFTS])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_kernel_serves_where_it_is_wanted(wanted: bool, drafts: int | None) -> None:
    # given a server that reports exits and closes open thinking, with or without drafts
    asked = PluginSettings(fused_kernel=wanted, reports=Path("reports"), close_open_thinking=drafts is None)
    policy = StopPolicy(EXIT, (Level(RISK, 0.0),))
    served = SimpleNamespace(
        automaton=MACHINE, probe=FIRST, closed=2, settings=asked, setup=SimpleNamespace(policy=policy)
    )
    # when its sessions are made, then the kernel serves if the setting says so
    found = make_sessions(served, torch.device("cpu"), SLOTS + 1, drafts)
    assert isinstance(found, FusedSessions) is wanted
    arrays = found.arrays if wanted else found
    assert isinstance(arrays, DraftedSessions) is (drafts is not None)
    # (on a CPU without drafts the core's own sessions do, where it says not)
    assert isinstance(arrays, HostSessions) is (drafts is None and not wanted)


@pytest.mark.parametrize("kernel", ["fused_step", "fused_force"])
def test_a_kernel_that_fails_changes_no_decision_with_drafts(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a kernel that fails in the middle of requests
    def fail(number: int) -> None:
        if number == STEPS // 2:
            monkeypatch.setattr(f"lynxstop.engines.vllm.fused_kernel.{kernel}", None)

    # when steps go on, then both forms agree, and the failure is counted once
    counters = compare_with_drafts(StopPolicy(EXIT, (Level(RISK, 0.0),)), 0, fail)
    assert counters[COUNTERS.index("kernel_failures")] == 1


def score_of(probe: Probe, rows: Any) -> tuple[Any, Any]:
    """Scores of rows that complete a cue, by the array form and by the kernel."""
    found = []
    for sessions in both(StopPolicy(EXIT, (Level(RISK, 0.0),)), probe):
        for slot in range(len(rows)):
            sessions.admit(slot, [0], RequestOptions(True, math.inf))
        step = BatchStep(np.arange(len(rows)), torch.full((len(rows),), 4), None, None, lambda _: [])
        run(sessions, step, rows)
        found.append(sessions.shown()[0])
        assert sessions.counters[COUNTERS.index("kernel_failures")] == 0
    return found[0], found[1]


@pytest.mark.parametrize("sizes", [(1,), (20, 5, 1)])
def test_scores_differ_by_the_order_of_summation_only(sizes: tuple[int, ...]) -> None:
    # given a linear probe and one with two hidden layers, of widths that are no powers of 2
    draw, width, maps = np.random.default_rng(0), 1500, []
    for size in sizes:
        weight = draw.normal(size=(size, width)).astype(np.float32) / math.sqrt(width)
        maps.append((weight, draw.normal(size=size).astype(np.float32)))
        width = size
    rows = torch.from_numpy(draw.normal(size=(SLOTS, 1500)).astype(np.float32))
    rows[1, 1499] = math.inf
    # when both forms score, then they agree within 1e-5 for logits around 1, and on what is not finite
    expected, found = score_of(Probe((0,), tuple(maps)), rows)
    assert expected.isnan().tolist() == found.isnan().tolist() == [row == 1 for row in range(SLOTS)]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_a_kernel_that_cannot_be_launched_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a kernel that no longer compiles, and a request between a cue and its confirmation
    policy = StopPolicy(EXIT, (Level(RISK, 0.0),))
    arrays, fused = both(policy)
    steps = [
        BatchStep(np.array([2]), torch.tensor([token]), None, None, lambda _: []) for token in (4, 9, EXIT[0])
    ]
    for number, step in enumerate(steps):
        for sessions in (arrays, fused):
            if number == 0:
                sessions.admit(2, [0], RequestOptions(True, 0.0))
        if number == 1:
            monkeypatch.setattr("lynxstop.engines.vllm.fused_kernel.fused_step", None)
        features = torch.tensor([[1.0, 0.0, 0.0]])
        # when steps go on, then all is forced as in the array form, and the failure is counted once
        assert torch.equal(run(arrays, step, features), run(fused, step, features))
    assert (
        arrays.counters[COUNTERS.index("exits_score")] == fused.counters[COUNTERS.index("exits_score")] == 1
    )
    assert fused.counters[COUNTERS.index("kernel_failures")] == 1
