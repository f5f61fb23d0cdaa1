"""The verdict on one level."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lynxstop.errors import DataError
from lynxstop.monitor.entries import Audit, Damaged, Reset
from lynxstop.monitor.exchangeability import ExchangeabilityTest
from lynxstop.monitor.monitor import LevelKey, Monitor, MonitorOptions

KEY, OPTIONS = LevelKey("m", None, 0.05), MonitorOptions()
GOOD = Audit(model="m", group=None, risk=0.05, exited=True, loss=0.0, score=1.0, cues=4, tokens=10)
BAD = replace(GOOD, loss=1.0)
SAME = replace(GOOD, repeat=True, exited=False)


def inputs() -> list[ExchangeabilityTest]:
    rng = np.random.default_rng(0)
    return [
        ExchangeabilityTest.from_reference(rng.normal(size=300)),
        ExchangeabilityTest.from_reference([4.0] * 300),
    ]


def read(*entries: Audit | Damaged, options: MonitorOptions = OPTIONS) -> Monitor:
    monitor = Monitor(KEY, options)
    for entry in entries:
        monitor.add(entry)
    return monitor


def test_kept_promises_raise_no_alarm() -> None:
    verdict = read(*[BAD if number % 50 == 0 else GOOD for number in range(300)]).verdict

    assert verdict.state == "ok"
    assert (verdict.audits, verdict.exits, verdict.lost, verdict.reason) == (300, 300, 6.0, "")
    assert verdict.tokens == 3000
    assert verdict.interval[0] < 0.02 < verdict.interval[1]


def test_a_broken_promise_raises_the_alarm_and_says_why() -> None:
    verdict = read(*[BAD if number % 3 == 0 else GOOD for number in range(100)]).verdict

    assert verdict.state == "alarm"
    assert verdict.reason == (
        "The risk has been above 0.05 since the start or the last reset (a false alarm has a probability of "
        "at most 0.01): 34 losses in 100 audits."
    )


LATE = [GOOD] * 3000 + [BAD] * 12


def test_a_late_change_is_a_warning_unless_it_is_to_stop_exits() -> None:
    warned = read(*LATE).verdict
    stopped = read(*LATE, options=MonitorOptions(stop_on_change=True)).verdict

    assert (warned.state, stopped.state) == ("changed", "alarm")
    assert warned.reason == "The risk seems to have risen above 0.05 recently: 12 losses in 3012 audits."
    # It stays, and does not stay recent.
    later = read(*LATE, *[GOOD] * 5000).verdict
    assert later.state == "changed"
    assert (
        later.reason == "The risk seems to have risen above 0.05 5000 audits ago: 12 losses in 8012 audits."
    )


def test_damaged_audits_count_as_losses() -> None:
    verdict = read(*[Damaged()] * 10).verdict

    assert verdict.alarm
    assert verdict.damaged == 10


def test_two_full_answers_that_differ_are_no_loss_of_the_level() -> None:
    verdict = read(*[SAME] * 90, *[replace(SAME, loss=1.0)] * 10).verdict

    assert verdict.state == "ok"
    assert (verdict.audits, verdict.repeats, verdict.differed) == (0, 100, 10.0)
    assert verdict.self_interval[0] < 0.1 < verdict.self_interval[1]
    assert verdict.to_json()["self_disagreement"] == 0.1


def test_inputs_that_change_are_a_warning_only() -> None:
    monitor = Monitor(KEY, OPTIONS, inputs())
    for _ in range(200):
        monitor.add(replace(GOOD, score=4.0))

    assert monitor.verdict.state == "inputs"


def test_an_audit_that_was_given_up_is_a_loss_and_says_nothing_of_inputs() -> None:
    monitor = Monitor(KEY, OPTIONS, inputs())
    for _ in range(40):
        monitor.add(Audit(*KEY, exited=True, loss=1.0, id="a"))

    assert monitor.verdict.lost == 40
    assert not monitor.verdict.warning


def test_a_restored_monitor_goes_on_where_it_was() -> None:
    whole, half = Monitor(KEY, OPTIONS, inputs()), Monitor(KEY, OPTIONS, inputs())
    entries = [BAD if number % 9 == 0 else GOOD for number in range(60)] + [SAME]
    for number, entry in enumerate(entries):
        whole.add(entry)
        half.add(entry)
        if number == 30:
            half = Monitor.from_json(json.loads(json.dumps(half.to_json())), OPTIONS)

    assert half.to_json() == whole.to_json()
    assert half.verdict == whole.verdict


def test_a_damaged_state_is_refused() -> None:
    content = read(GOOD).to_json()
    content["test"]["wealth"] = [1.0]

    with pytest.raises(DataError):
        Monitor.from_json(content, OPTIONS)


@pytest.mark.parametrize(
    ("reset", "within"),
    [
        (Reset(), True),
        (Reset(model="m"), True),
        (Reset(model="n"), False),
        (Reset(risk=0.05), True),
        (Reset(model="m", risk=0.1), False),
        (Reset(group="chat"), False),
    ],
)
def test_which_levels_a_reset_is_about(reset: Reset, within: bool) -> None:
    assert KEY.within(reset) is within
