"""Statistics from the top log-probabilities that a server shows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.remote.tokens import Top, beginnings, behind


@given(st.lists(st.floats(0.0078125, 1, width=32), min_size=2, max_size=12), st.integers(2, 12))
def test_entropy_from_the_top_is_a_lower_bound_and_exact_with_everything(weights, k):
    probs = np.array(sorted(weights, reverse=True)) / sum(weights)
    true = float(-(probs * np.log(probs)).sum())
    texts = [str(token) for token in range(10, 10 + len(probs))]
    top = Top(texts[:k], [math.log(p) for p in probs[:k]])
    found = behind(top, -1.0, beginnings(f"{texts[-1]} and more"))
    assert found.entropy <= true + 1e-6
    assert found.top_gap == pytest.approx(math.log(probs[0] / probs[1]))
    if k >= len(probs):
        assert found.entropy == pytest.approx(true, abs=1e-6)
        assert found.end_margin == pytest.approx(math.log(probs[0] / probs[-1]))
    else:
        assert found.end_margin <= math.log(probs[0] / probs[-1]) + 1e-6


def test_without_alternatives_only_the_own_log_probability_is_known():
    found = behind(Top(["a"], [-0.1]), -0.5, beginnings("</think>"))
    assert found.logprob == -0.5
    assert math.isnan(found.entropy)
    assert math.isnan(found.end_margin)
