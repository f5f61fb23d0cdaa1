"""The sequential tests keep their error levels, and find a broken promise soon."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from lynxstop.errors import ConfigError, DataError
from lynxstop.monitor.sequential import ChangeDetector, RiskTest, alternatives, log_factors

RISK, LEVEL = 0.05, 0.01


def first_alarms(
    rates: NDArray[np.float64], streams: int, seed: int, detector: bool = False
) -> NDArray[np.int64]:
    """Audits until the first alarm in many streams at once, one past the end without one."""
    rng, count = np.random.default_rng(seed), len(rates)
    lost, kept = log_factors(RISK, 1.0), log_factors(RISK, 0.0)
    state = np.full((streams, len(lost)), -np.inf if detector else 0.0)
    limit = math.log(10_000) if detector else -math.log(LEVEL)
    found = np.full(streams, count + 1)
    for audit, rate in enumerate(rates, start=1):
        state = np.logaddexp(state, 0.0) if detector else state
        state = state + np.where(rng.random((streams, 1)) < rate, lost, kept)
        top = state.max(axis=1)
        value = top + np.log(np.exp(state - top[:, None]).mean(axis=1))
        found = np.where((found > count) & (value >= limit), audit, found)
    return found


def test_false_alarms_are_no_more_than_the_level_over_long_streams() -> None:
    found = first_alarms(np.full(10_000, RISK), streams=400, seed=1)

    assert binom.sf((found <= 10_000).sum() - 1, 400, LEVEL) > 1e-3


@pytest.mark.parametrize(("rate", "published"), [(0.10, 241), (0.20, 34)])
def test_a_broken_promise_is_found_within_twice_the_published_delay(rate: float, published: int) -> None:
    found = first_alarms(np.full(2_000, rate), streams=300, seed=2)

    assert binom.sf((found <= 2 * published).sum() - 1, 300, 0.5) < 1e-4


def test_the_vectorised_streams_above_are_the_test_itself() -> None:
    rng = np.random.default_rng(3)
    test, losses = RiskTest(RISK, LEVEL), (rng.random(300) < 0.2).astype(float)

    for loss in losses:
        test.add(loss)

    eta = (alternatives(RISK) - RISK) / (RISK * (1 - RISK))
    products = np.prod([1 + eta * (loss - RISK) for loss in losses], axis=0)
    assert test.log_e == pytest.approx(math.log(products.mean()))


@given(st.floats(0.001, 0.5), st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_a_bet_gains_nothing_on_average_while_the_promise_holds(risk: float, losses: list[float]) -> None:
    low, high = sorted(losses)
    if not low < risk < high:
        return
    share = (risk - low) / (high - low)

    mean = share * np.exp(log_factors(risk, high)) + (1 - share) * np.exp(log_factors(risk, low))

    assert np.allclose(mean, 1.0)


def test_an_alarm_is_sticky() -> None:
    test = RiskTest(RISK, LEVEL)

    for loss in [1.0] * 10 + [0.0] * 2_000:
        test.add(loss)

    assert test.alarm
    assert test.log_e < 0


def test_the_detector_finds_a_late_change_sooner_than_the_test() -> None:
    rates = np.r_[np.full(1_000, 0.03), np.full(1_000, 0.10)]

    late = first_alarms(rates, streams=200, seed=4, detector=True)
    since = first_alarms(rates, streams=200, seed=4)

    assert np.median(late) < 1_000 + 2 * 202
    assert np.median(since) > np.median(late)


def test_the_detector_restarts_and_counts() -> None:
    detector = ChangeDetector(RISK, run_length=50.0)

    alarms = [detector.add(1.0) for _ in range(12)]

    assert detector.alarms == sum(alarms) > 1
    assert not alarms[alarms.index(True) + 1]


@pytest.mark.parametrize("kind", [RiskTest, ChangeDetector])
def test_a_restored_state_goes_on_as_if_nothing_had_happened(
    kind: type[RiskTest] | type[ChangeDetector],
) -> None:
    one, losses = kind(RISK), [0.0, 1.0, 0.5, 0.0]
    one.add(1.0)
    other = kind.from_json(json.loads(json.dumps(one.to_json())))

    for loss in losses:
        one.add(loss)
        other.add(loss)

    assert one.to_json() == other.to_json()


@pytest.mark.parametrize("loss", [-0.1, 1.1, math.nan])
def test_what_is_no_loss_is_refused(loss: float) -> None:
    with pytest.raises(DataError, match="outside"):
        RiskTest(RISK).add(loss)


@pytest.mark.parametrize("risk", [0.0, 1.0, math.nan])
def test_what_is_no_risk_is_refused(risk: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        RiskTest(risk)


def test_a_damaged_state_is_refused() -> None:
    content = RiskTest(RISK).to_json() | {"wealth": [0.0]}

    with pytest.raises(DataError, match="damaged"):
        RiskTest.from_json(content)
