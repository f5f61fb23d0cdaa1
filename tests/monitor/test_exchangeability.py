"""Inputs that change are noticed; inputs that do not are left alone."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from lynxstop.errors import DataError
from lynxstop.monitor.exchangeability import ExchangeabilityTest


def warned(reference: list[float], live: list[float], seed: int) -> int | None:
    """Requests until the warning, None without one."""
    rng, test = np.random.default_rng(seed), ExchangeabilityTest.from_reference(reference)
    for number, value in enumerate(live):
        test.add(value, rng.random())
        if test.warning:
            return number
    return None


def exchangeable(seed: int) -> tuple[list[float], list[float]]:
    """500 values of calibration and 500 live ones, a tenth of them missing."""
    values = np.random.default_rng(seed).normal(size=1_000)
    values[::10] = math.nan
    return values[:500].tolist(), values[500:].tolist()


def test_exchangeable_requests_rarely_warn() -> None:
    found = sum(warned(*exchangeable(seed), seed) is not None for seed in range(200))

    assert binom.sf(found - 1, 200, 0.01) > 1e-3


def test_a_test_for_one_look_that_is_looked_at_often_is_caught() -> None:
    found = 0
    for seed in range(200):
        reference, live = map(np.array, exchangeable(seed))
        known = live[~np.isnan(live)]
        counts = np.arange(1, len(known) + 1)
        off = (known.cumsum() / counts - np.nanmean(reference)) / np.sqrt(1 / counts + 1 / 450)
        found += bool((np.abs(off) > norm.isf(0.005)).any())

    assert binom.sf(found - 1, 200, 0.01) < 1e-6


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_a_shift_is_noticed(shift: float) -> None:
    rng = np.random.default_rng(1)

    found = warned(rng.normal(size=500).tolist(), (rng.normal(size=400) + shift).tolist(), 1)

    assert found is not None


def test_requests_without_a_decision_point_are_noticed_too() -> None:
    rng = np.random.default_rng(2)

    assert warned(rng.normal(size=500).tolist(), [math.nan] * 200, 2) is not None


def test_a_restored_state_goes_on() -> None:
    one = ExchangeabilityTest.from_reference([1.0, 2.0, 2.0, 5.0, math.nan])
    one.add(2.0, 0.5)
    other = ExchangeabilityTest.from_json(json.loads(json.dumps(one.to_json())))

    for test in (one, other):
        test.add(7.0, 0.25)

    assert one.to_json() == other.to_json()


def test_a_damaged_state_is_refused() -> None:
    content = ExchangeabilityTest.from_reference([1.0, 2.0, 3.0]).to_json()

    for change in ({"counts": [1]}, {"edges": [2.0, 1.0]}):
        with pytest.raises(DataError, match="damaged"):
            ExchangeabilityTest.from_json(content | change)
