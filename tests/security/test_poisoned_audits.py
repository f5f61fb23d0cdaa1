"""A client that repeats one prompt: what it can move, and what it cannot."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest

from lynxstop.monitor.arms import Arm, ArmShares
from lynxstop.monitor.entries import Audit
from lynxstop.monitor.monitor import LevelKey, Monitor, MonitorOptions
from lynxstop.monitor.sequential import RiskTest


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


@pytest.mark.parametrize(("stop", "state"), [(False, "changed"), (True, "alarm")])
def test_a_late_burst_of_losing_audits_stops_exits_only_where_that_was_asked_for(
    stop: bool, state: str
) -> None:
    monitor = Monitor(LevelKey("m", None, 0.05), MonitorOptions(stop_on_change=stop))
    good = Audit(model="m", group=None, risk=0.05, exited=True, loss=0.0)
    for _ in range(5_000):
        monitor.add(good)
    for _ in range(3):
        monitor.add(replace(good, loss=1.0))
    assert monitor.verdict.state == "ok"
    monitor.add(replace(good, loss=1.0))

    assert monitor.verdict.state == state


@pytest.mark.parametrize(("before", "losses"), [(0, 3), (100, 16), (5_000, 332)])
def test_the_longer_a_promise_was_kept_the_more_losses_in_a_row_an_alarm_takes(
    before: int, losses: int
) -> None:
    test = RiskTest(0.05)
    for _ in range(before):
        test.add(0.0)
    for _ in range(losses - 1):
        test.add(1.0)
    assert not test.alarm
    test.add(1.0)

    assert test.alarm
