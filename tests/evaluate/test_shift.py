"""What becomes of a certificate on another population, on made tables whose risk is known."""

from dataclasses import replace

import numpy as np
import pytest

from lynxstop.calibration.losses import LOSSES
from lynxstop.replay.exits import ExitTable
from lynxstop_research.shift import Scored, alarm, certified, change, delay, losses_at, served, shift, warning


def population(right: float, seed: int, problems: int = 400, offset: float = 0.0) -> Scored:
    """One cue per trace; the score says nothing of whether its answer agrees, which it does so often."""
    rng = np.random.default_rng(seed)
    names = np.array([f"p{number:04}" for number in range(problems)])
    scores = (rng.normal(size=problems) + offset).astype(np.float32)
    agrees = (rng.random(problems) < right).astype(float)
    table = ExitTable(
        trace_ids=names,
        problem_ids=names,
        full_tokens=np.full(problems, 100),
        full_right=np.ones(problems),
        full_parsed=np.ones(problems, bool),
        owners=np.arange(problems),
        tokens=np.full(problems, 40),
        agrees=agrees,
        right=agrees,
        parsed=np.ones(problems, bool),
        cue=np.ones(problems, bool),
        rows=np.arange(problems),
    )
    return Scored(table, scores)


def test_a_population_like_the_source_keeps_the_promise() -> None:
    source = population(0.99, 0)

    found = shift(
        "a", "a", threshold=certified(source, 0.05), risk=0.05, reference=source,
        calibration=source, test=population(0.99, 1),
    )  # fmt: skip

    assert found.certified
    assert found.served.low < found.served.risk < found.served.high
    assert found.served.risk < 0.05
    assert found.served.saved == pytest.approx(0.6 * found.served.exits)
    assert found.alarm is not None
    assert found.alarm.share == 0.0
    assert found.repaired == found.served


def test_another_population_breaks_it_is_noticed_and_mended() -> None:
    source, threshold = population(0.99, 0), certified(population(0.99, 0), 0.05)

    found = shift(
        "a", "b", threshold=threshold, risk=0.05, reference=source,
        calibration=population(0.7, 2, offset=2.0), test=population(0.7, 3, offset=2.0),
    )  # fmt: skip

    assert found.served.low > 0.05
    assert found.alarm is not None
    assert found.alarm.share == 1.0
    assert found.alarm.median < 100
    assert found.warning.share == 1.0
    assert found.repaired is not None
    assert found.repaired.low < 0.05
    assert found.repaired.saved < found.served.saved / 2


def test_a_level_is_measured_by_its_own_loss() -> None:
    # given answers that often change, and were right before in one of ten cases
    changing, harm = population(0.7, 1), LOSSES["harm"]
    was_right = (np.arange(400) % 10 == 0).astype(float)
    changing = Scored(replace(changing.table, full_right=was_right), changing.scores)

    found = shift(
        "a",
        "b",
        threshold=-10.0,
        risk=0.2,
        reference=changing,
        calibration=changing,
        test=changing,
        loss=harm,
    )

    lost = (changing.table.agrees == 0) & (was_right == 1)
    assert found.served.risk == pytest.approx(lost.mean())
    assert losses_at(changing, -10.0).mean() > 0.2
    assert found.repaired == found.served
    # then no audit is made up that live traffic could not have
    assert (found.alarm, found.change) == (None, None)


def test_delays_count_requests() -> None:
    always = delay(lambda: lambda request: True, 10)
    never = delay(lambda: lambda request: False, 10)

    assert (always.share, always.median) == (1.0, 1.0)
    assert never.share == 0.0
    assert np.isnan(never.median)


def test_monitors_start_anew_for_every_order() -> None:
    losses = np.ones(10)
    first, second = alarm(losses, 0.05)(), alarm(losses, 0.05)()

    assert [first(0) for _ in range(4)] == [second(0) for _ in range(4)]
    assert not warning(np.zeros(50), np.zeros(5))()(0)


def test_only_the_monitors_own_alarm_is_one() -> None:
    # Four losses after a long good time: a recent rise of the risk, and no reason for an alarm.
    losses = np.repeat([0.0, 1.0], [1_000, 4])
    raised, risen = alarm(losses, 0.05)(), change(losses, 0.05)()

    assert not any(raised(request) for request in range(len(losses)))
    assert [risen(request) for request in range(len(losses))][-1]


def test_an_infinite_threshold_loses_nothing() -> None:
    traces = population(0.5, 0)

    assert served(traces, np.inf).risk == 0.0
    assert losses_at(traces, np.inf).sum() == 0
