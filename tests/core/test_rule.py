"""What makes a decision point eligible, and a score pass."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.core.policy import StopPolicy
from lynxstop.core.rule import Eligibility, eligible_mask, passes, tilted
from lynxstop.errors import ConfigError

thinning = st.fixed_dictionaries({"stride": st.integers(1, 4), "max_points": st.none() | st.integers(1, 4)})


def allowed(policy, positions):
    """Eligible decision points by their definition, each looked at with all before it."""
    found: list[bool] = []
    for number, position in enumerate(positions, start=1):
        before = [place for place, ready in zip(positions, found, strict=False) if ready]
        found.append(
            position >= policy.min_tokens
            and all(position - place >= policy.cooldown for place in before)
            and number % policy.stride == 0
            and (policy.max_points is None or len(before) < policy.max_points)
        )
    return found


@given(st.lists(st.integers(1, 5), max_size=12), st.integers(0, 10), st.integers(0, 6), thinning)
def test_guards_equal_their_definition_point_by_point(gaps, min_tokens, cooldown, thinned):
    policy = StopPolicy(exit_ids=(0,), min_tokens=min_tokens, cooldown=cooldown, **thinned)
    positions = np.cumsum(gaps, dtype=np.int64)
    assert eligible_mask(policy, positions).tolist() == allowed(policy, positions.tolist())


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


def test_a_tilt_counts_eligible_points_only():
    # given a session whose second cue comes within the cooldown of the first
    guards = Eligibility(StopPolicy(exit_ids=(0,), cooldown=5, tilt=0.5))
    seen = [(guards.admit(position), guards.earlier) for position in (1, 3, 8)]
    # then the third is the second that may exit, and its score is lowered once
    assert seen == [(True, 0), (False, 0), (True, 1)]
    assert tilted([2.0, math.nan], [1, 1], 0.5).tolist() == [1.5, pytest.approx(math.nan, nan_ok=True)]


def test_guards_count_from_the_last_eligible_cue():
    policy = StopPolicy(exit_ids=(0,), min_tokens=3, cooldown=5)
    assert eligible_mask(policy, np.array([2, 3, 7, 8, 12, 13])).tolist() == [0, 1, 0, 1, 0, 1]


def test_thinning_takes_every_kth_point_and_no_more_than_m():
    positions = np.arange(1, 10)
    assert eligible_mask(StopPolicy((0,), stride=3), positions).nonzero()[0].tolist() == [2, 5, 8]
    assert eligible_mask(StopPolicy((0,), stride=3, max_points=2), positions).nonzero()[0].tolist() == [2, 5]
    assert eligible_mask(StopPolicy((0,), max_points=2, cooldown=4), positions).nonzero()[0].tolist() == [
        0,
        4,
    ]


@pytest.mark.parametrize("guards", [{"stride": 0}, {"max_points": 0}])
def test_impossible_thinning_is_refused(guards):
    with pytest.raises(ConfigError, match="1 or more"):
        StopPolicy((0,), **guards)
