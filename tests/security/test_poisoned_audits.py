"""A client that repeats one prompt: what it can move, and what it cannot."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from lynxstop.monitor.arms import Arm, ArmShares
from lynxstop.monitor.sequential import ChangeDetector, RiskTest


def test_whether_a_request_is_audited_depends_on_its_id_and_a_secret_alone() -> None:
    assert list(inspect.signature(ArmShares.arm).parameters) == ["self", "request_id"]
    shares = ArmShares(b"secret", audit=0.02)
    names = [f"request-{number}" for number in range(20_000)]
    audited = {name for name in names if shares.arm(name) is Arm.AUDIT}

    # One losing prompt that is sent again and again is audited at the same rate as all else.
    assert abs(len(audited) / len(names) - 0.02) < 0.005
    # Who does not know the secret cannot tell which ids are audited.
    guessed = {name for name in names if ArmShares(b"guess", audit=0.02).arm(name) is Arm.AUDIT}
    assert len(audited & guessed) < 0.1 * len(audited)


def audited(rate: float, losing: float, audits: int, seed: int) -> np.ndarray:
    """Losses of audits when a share of the traffic is one prompt that always loses."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(audits) < losing, 1.0, rng.random(audits) < rate).astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_a_losing_prompt_that_leaves_the_risk_below_its_level_raises_no_alarm(seed: int) -> None:
    test = RiskTest(0.05)
    for loss in audited(0.03, 0.01, 5_000, seed):
        test.add(loss)

    assert not test.alarm


@pytest.mark.parametrize("seed", range(5))
def test_a_losing_prompt_that_breaks_the_promise_is_found(seed: int) -> None:
    test, count = RiskTest(0.05), 0
    for loss in audited(0.03, 0.10, 2_000, seed):
        test.add(loss)
        count += 1
        if test.alarm:
            break

    assert test.alarm
    assert count < 1_000


def test_a_burst_of_losing_audits_stops_exits_and_no_more() -> None:
    # This direction is safe: requests think to the end. It is also cheap: four audited losses in a row.
    detector = ChangeDetector(0.05)
    for _ in range(5_000):
        assert not detector.add(0.0)

    assert [detector.add(1.0) for _ in range(4)] == [False, False, False, True]
