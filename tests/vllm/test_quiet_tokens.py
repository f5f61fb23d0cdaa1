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

from lynxstop.core.exits import Mode  # noqa: E402
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL  # noqa: E402
from lynxstop.core.policy import Level, StopPolicy  # noqa: E402
from lynxstop.core.session import Session  # noqa: E402
from lynxstop.core.statistics import UNKNOWN, Statistics  # noqa: E402
from lynxstop.engines.torch.statistics import describe  # noqa: E402
from lynxstop.engines.vllm import per_request, quiet_tokens  # noqa: E402
from lynxstop.engines.vllm.per_request import PerRequestSessions  # noqa: E402
from lynxstop.engines.vllm.request_options import RequestOptions  # noqa: E402
from lynxstop.engines.vllm.session_batch import COUNTERS, EXIT_KINDS, REASONS, BatchStep  # noqa: E402
from lynxstop.rules.served import serve  # noqa: E402
from lynxstop.rules.table import rule_from  # noqa: E402
from tests.vllm.test_rules import learned  # noqa: E402
from tests.vllm.test_sessions import EXIT, MACHINE, PROBE, VOCABULARY, WATCH  # noqa: E402

SLOTS = 4
RULE = serve(rule_from("combined", learned(14)))
policies = st.builds(
    lambda points, every, budget, guard, rule, minimum: StopPolicy(
        EXIT, (Level(per_request._RISK, 0.3),), minimum, budget=budget, points=points,
        every=every if points & INTERVAL else 0,
        loop_guard=guard, rule=rule,
    ),
    st.integers(CUE, CUE | BOUNDARY | INTERVAL), st.integers(2, 9), st.none() | st.integers(1, 40),
    st.sampled_from([None, None, 3]), st.sampled_from([RULE, RULE, None]), st.integers(0, 20),
)  # fmt: skip
# Ordinary words mostly: long stretches in which nothing is decided, cues, and the marks of a thinking block.
WORDS = (7, 10, 11, 14, *[9] * 4, 8, 8, 7, 10, 3, 4, 13, 1, 0)


def pick(features: Any, rows: Any) -> Any:
    """Features of some rows, or of all."""
    return features if rows is None else features[rows]


class Plain:
    """A session that reads each token and decides at once."""

    def __init__(self, policy: StopPolicy, prompt: list[int], mode: Mode) -> None:
        self.session = Session(WATCH, policy, prompt, risk=per_request._RISK, mode=mode)
        self.before: Any = None
        self.forced: int | None = None

    def read(self, token: int, logits: Any, score: float) -> None:
        found, after = describe(logits, EXIT[0])
        own = math.nan if self.before is None else float(self.before.logprobs(torch.tensor([token])))
        asked = self.session.read(token)
        known = Statistics(*[*found[0].tolist(), own]) if self.session.policy.rule else UNKNOWN
        self.forced = self.session.decide(score if asked else None, known)
        self.before = after


@settings(max_examples=25, deadline=None)
@given(
    policy=policies,
    mode=st.sampled_from(Mode),
    prompts=st.lists(st.sampled_from([[0], [0, 9], [9]]), min_size=SLOTS, max_size=SLOTS),
    room=st.sampled_from([1, 2, 7, 32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_late_readers_decide_as_sessions_that_read_at_once(
    policy: StopPolicy, mode: Mode, prompts: list[list[int]], room: int, seed: int
) -> None:
    # given requests in sessions of the engine, and each in a session of its own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quiet_tokens, "ROOM", room)
        sessions = PerRequestSessions(MACHINE, policy, PROBE, torch.device("cpu"), SLOTS + 1, 2)
        alone = [Plain(policy, prompt, mode) for prompt in prompts]
        for slot, prompt in enumerate(prompts):
            sessions.admit(slot, prompt, RequestOptions(True, 0.3, policy.budget, mode is Mode.STOP))
        draw, fresh = np.random.default_rng(seed), np.ones(SLOTS, np.bool_)
        for _ in range(50):
            # when some of them read a token, or the end of their prompt, in rows of any order
            slots = draw.permutation(SLOTS)[: draw.integers(1, SLOTS + 1)]
            logits = torch.from_numpy(draw.normal(size=(len(slots), VOCABULARY)).astype(np.float32)) * 2
            scores = torch.from_numpy(draw.normal(size=(len(slots), 1)).astype(np.float32))
            tokens, reads = [], ~fresh[slots]
            for row, slot in enumerate(slots.tolist()):
                one = alone[slot]
                token = int(draw.choice(WORDS)) if one.forced is None else one.forced
                tokens.append(token)
                if reads[row]:
                    one.read(token, logits[row : row + 1], float(scores[row, 0]))
                else:
                    one.before = describe(logits[row : row + 1], EXIT[0])[1]
            fresh[slots] = False
            step = BatchStep(slots, torch.tensor(tokens), None, reads, lambda rows: [])
            lost = sessions.observe(step, partial(pick, scores), logits)
            # then the same tokens are forced, and exits, blocks and counts of tokens agree
            assert not lost
            wanted = torch.zeros_like(logits)
            sessions.force(wanted)
            forced = [int(row.argmax()) if row.max() > 1e8 else None for row in wanted]
            assert forced == [alone[slot].forced for slot in slots]
            exits, (_, positions) = sessions.exits(), sessions.shown()
            for row, slot in enumerate(slots.tolist()):
                session = alone[slot].session
                watched = sessions._by_slot[slot] is not None
                taken = session.exit
                kind = (
                    0 if taken is None else taken.thinking_tokens * EXIT_KINDS + REASONS.index(taken.reason)
                )
                assert int(exits[0, row]) == kind
                assert not watched or int(positions[row]) == session.thinking_tokens
                asks = session.inside and mode is Mode.STOP and not session.stopped
                assert bool(sessions.inside()[row]) == asks
            # and when one of them is parked and comes back to another slot's place in time
            if draw.random() < 0.2:
                slot = int(draw.integers(SLOTS))
                parked = sessions.park(slot)
                sessions.admit(slot, [9], RequestOptions(False))
                sessions.resume(slot, parked)
    # then: what each session has seen is the same, signals and scores to the last bit
    for slot, one in enumerate(alone):
        here = sessions._by_slot[slot]
        if here is None:
            continue
        sessions.park(slot)
        late = here.session
        assert (late.tokens, late.thinking_tokens, late.phase, late.state) == (
            one.session.tokens, one.session.thinking_tokens, one.session.phase, one.session.state,
        )  # fmt: skip
        # (after an exit that shadow mode does not take, statistics and scores are not computed any more)
        until = math.inf if late.exit is None else late.exit.seen_at
        for event, other in zip(late.events, one.session.events, strict=True):
            known = event if event.seen_at <= until else replace(event, score=other.score)
            assert repr(known) == repr(other)
        assert late.exit == one.session.exit or repr(late.exit) == repr(one.session.exit)
    counts = dict(zip(COUNTERS, sessions.counters.tolist(), strict=True))
    assert counts["cues"] == sum(len(one.session.events) for one in alone)
    assert counts["exit_tokens"] == sum(
        one.session.exit.thinking_tokens for one in alone if one.session.exit is not None
    )
