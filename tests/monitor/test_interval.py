"""The confidence sequence holds at all times together."""

import numpy as np
import pytest

from lynxstop.monitor.interval import confidence_sequence


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.3])
def test_it_misses_the_rate_at_any_time_in_at_most_five_percent_of_streams(rate: float) -> None:
    rng, missed, streams = np.random.default_rng(5), 0, 200
    for _ in range(streams):
        total = 0
        for n, lost in enumerate(rng.random(600) < rate, start=1):
            total += int(lost)
            lower, upper = confidence_sequence(total, n) if n % 5 == 0 else (0.0, 1.0)
            if not lower <= rate <= upper:
                missed += 1
                break

    # Bin(200, 0.05) exceeds 20 with probability 0.0007
    assert missed <= 20


def test_fractional_losses_count_as_their_share() -> None:
    assert confidence_sequence(2.5, 50) == pytest.approx(confidence_sequence(2.5, 50))
    assert confidence_sequence(2.0, 50)[1] < confidence_sequence(2.5, 50)[1] < confidence_sequence(3.0, 50)[1]


def test_the_ends_of_the_range_are_reached() -> None:
    assert confidence_sequence(0, 20)[0] == 0.0
    assert confidence_sequence(20, 20)[1] == 1.0
    assert confidence_sequence(0, 1000)[1] < 0.01
