"""The kernel decides as the array form does, bit for bit given the same scores, in Triton's interpreter.

Run by `test_fused_kernel.py`, in a process of its own.
"""

from __future__ import annotations

import math
import os
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
from lynxstop.engines.vllm.device_sessions import FORCED, PENDING, STATE, DeviceSessions  # noqa: E402
from lynxstop.engines.vllm.fused_sessions import FusedSessions  # noqa: E402
from lynxstop.engines.vllm.product_automaton import DEAD  # noqa: E402
from lynxstop.engines.vllm.request_options import UNWATCHED, RequestOptions  # noqa: E402
from lynxstop.engines.vllm.session_batch import COUNTERS, BatchStep  # noqa: E402
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

    def make() -> DeviceSessions:
        made = DeviceSessions(*given_)
        made.reports_exits = False
        return made

    return make(), FusedSessions(make())


def options(draw: np.random.Generator) -> RequestOptions:
    if draw.random() < 0.15:
        return UNWATCHED
    budget = None if draw.random() < 0.6 else int(draw.integers(1, 9))
    stops, structured = bool(draw.random() < 0.8), bool(draw.random() < 0.2)
    return RequestOptions(True, float(draw.choice(LEVELS)), budget, stops, structured=structured)


def run(sessions: Any, step: BatchStep, features: Any, dtype: Any = torch.float32) -> Any:
    """Serve a step; the logits afterwards."""
    logits = torch.arange(len(step.tokens) * VOCABULARY, dtype=dtype).reshape(-1, VOCABULARY) % 7
    sessions.observe(step, lambda rows: features if rows is None else features[rows], logits)
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
        return BatchStep(slots, torch.tensor(tokens), None, read, lambda _: []), features


@settings(max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(policy=policies, seed=st.integers(0, 2**32 - 1))
def test_the_kernel_equals_the_array_form(policy: StopPolicy, seed: int) -> None:
    # given: the same requests, levels, budgets and modes in both forms
    draw = np.random.default_rng(seed)
    arrays, fused = both(policy)

    def admit(slot: int) -> None:
        terms = options(draw)
        for one in (arrays, fused):
            one.admit(slot, [0, 12, 3, 4, 10, 10], terms)

    for slot in range(SLOTS):
        admit(slot)
    stream = Stream(draw)
    for _ in range(STEPS):
        # and: new requests in the place of others
        if draw.random() < 0.2:
            slot = int(draw.integers(SLOTS))
            admit(slot)
            stream.wanted[slot] = -1
        # when: rows come in any order and number, with ties, NaN and tokens that disobey
        step, features = stream.step()
        expected, found = run(arrays, step, features), run(fused, step, features)
        # then: the same tokens are forced, and the same is counted
        assert torch.equal(expected, found)
        assert fused.counters[COUNTERS.index("kernel_failures")] == 0
        assert arrays.counters.tolist() == fused.counters.tolist()
        for row, slot in enumerate(step.slots.tolist()):
            stream.wanted[slot] = int(found[row].argmax()) if found[row].max() > 1e8 else -1
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
