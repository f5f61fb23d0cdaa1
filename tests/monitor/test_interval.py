"""The confidence sequence holds at all times together."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom, norm

from lynxstop.monitor.interval import confidence_sequence

STREAMS, LENGTH = 200, 600


def missed(rate: float, bounds: Callable[[int, int], tuple[float, float]]) -> int:
    """Streams of losses in which the bounds do not contain the rate at some look."""
    rng, found = np.random.default_rng(5), 0
    for _ in range(STREAMS):
        totals = (rng.random(LENGTH) < rate).cumsum().tolist()
        looks = (bounds(totals[n - 1], n) for n in range(5, LENGTH + 1, 5))
        found += any(not lower <= rate <= upper for lower, upper in looks)
    return found


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.3])
def test_it_misses_the_rate_at_any_time_in_at_most_five_percent_of_streams(rate: float) -> None:
    assert binom.sf(missed(rate, confidence_sequence) - 1, STREAMS, 0.05) > 1e-3


def test_an_interval_for_one_look_is_caught() -> None:
    def normal(total: int, n: int) -> tuple[float, float]:
        half = norm.isf(0.025) * math.sqrt(0.05 * 0.95 / n)
        return total / n - half, total / n + half

    assert binom.sf(missed(0.05, normal) - 1, STREAMS, 0.05) < 1e-6


def test_fractional_losses_count_as_their_share() -> None:
    assert confidence_sequence(2.5, 50) == pytest.approx(confidence_sequence(2.5, 50))
    assert confidence_sequence(2.0, 50)[1] < confidence_sequence(2.5, 50)[1] < confidence_sequence(3.0, 50)[1]


def test_the_ends_of_the_range_are_reached() -> None:
    assert confidence_sequence(0, 20)[0] == 0.0
    assert confidence_sequence(20, 20)[1] == 1.0
    assert confidence_sequence(0.9999, 1)[1] == 1.0
    assert confidence_sequence(0, 1000)[1] < 0.01
