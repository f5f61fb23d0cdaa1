"""The array form of the rule decides as the scalar one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.policy import StopPolicy
from lynxstop.core.rule import eligible, eligible_mask, first_exit, passes

cues = st.lists(st.tuples(st.integers(1, 5), st.sampled_from([-1.0, 0.0, 0.1, 2.0, math.nan])), max_size=12)


@given(cues, st.integers(0, 10), st.integers(0, 6), st.sampled_from([-2.0, 0.0, 0.1, math.inf]))
def test_array_form_equals_a_loop_over_the_scalar_form(gaps, min_tokens, cooldown, threshold):
    policy = StopPolicy(exit_ids=(0,), min_tokens=min_tokens, cooldown=cooldown)
    positions = np.cumsum([gap for gap, _ in gaps], dtype=np.int64)
    scores = np.array([score for _, score in gaps], dtype=np.float32)
    last, exit_at, mask = None, -1, []
    for i, position in enumerate(positions.tolist()):
        mask.append(eligible(policy, position, last))
        if mask[-1]:
            last = position
            if exit_at < 0 and passes(float(scores[i]), threshold):
                exit_at = i
    assert eligible_mask(policy, positions).tolist() == mask
    assert first_exit(scores, eligible_mask(policy, positions), threshold) == exit_at


@pytest.mark.parametrize(
    ("score", "threshold", "out"),
    [
        (1.0, 1.0, False),
        (1.0000001, 1.0, True),
        (1.00000001, 1.0, False),
        (math.nan, -math.inf, False),
        (1e9, math.inf, False),
    ],
)
def test_a_score_passes_when_its_float32_is_strictly_greater(score, threshold, out):
    assert passes(score, threshold) is out


def test_guards_count_from_the_last_eligible_cue():
    policy = StopPolicy(exit_ids=(0,), min_tokens=3, cooldown=5)
    assert eligible_mask(policy, np.array([2, 3, 7, 8, 12, 13])).tolist() == [0, 1, 0, 1, 0, 1]
