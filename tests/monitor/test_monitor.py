"""The verdict: never a wrong "all is well", whatever happens to the files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lynxstop.monitor.exchangeability import ExchangeabilityTest
from lynxstop.monitor.journal import Audit, Damaged, FileJournal
from lynxstop.monitor.monitor import Monitor, MonitorOptions, load

OPTIONS = MonitorOptions(model="m", risk=0.05)
GOOD = Audit(model="m", group=None, risk=0.05, exited=True, loss=0.0, score=1.0, cues=4)
BAD = replace(GOOD, loss=1.0)


def inputs() -> list[ExchangeabilityTest]:
    rng = np.random.default_rng(0)
    return [
        ExchangeabilityTest.from_reference(rng.normal(size=300)),
        ExchangeabilityTest.from_reference([4.0] * 300),
    ]


def test_kept_promises_raise_no_alarm(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "audits.jsonl")
    for number in range(300):
        journal.append(BAD if number % 50 == 0 else GOOD)

    verdict = Monitor(OPTIONS).catch_up(journal)

    assert not verdict.alarm
    assert (verdict.audits, verdict.exits, verdict.lost, verdict.reason) == (300, 300, 6.0, "")
    assert verdict.interval[0] < 0.02 < verdict.interval[1]


def test_a_broken_promise_raises_the_alarm_and_says_why(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "audits.jsonl")
    for number in range(100):
        journal.append(BAD if number % 3 == 0 else GOOD)

    verdict = Monitor(OPTIONS).catch_up(journal)

    assert verdict.alarm
    assert verdict.reason == "The risk has been above 0.05 since deployment: 34 losses in 100 audits."


def test_audits_of_other_levels_and_models_do_not_count() -> None:
    monitor = Monitor(OPTIONS)

    assert not any(
        monitor.options.concerns(replace(BAD, **other))
        for other in ({"model": "n"}, {"risk": 0.1}, {"group": "chat"})
    )


def test_damaged_audits_count_as_losses() -> None:
    monitor = Monitor(OPTIONS)
    for _ in range(10):
        monitor.add(Damaged())

    assert monitor.verdict.alarm
    assert monitor.verdict.damaged == 10


def test_a_journal_that_is_gone_is_an_alarm(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "audits.jsonl")
    journal.append(GOOD)
    monitor = Monitor(OPTIONS)
    monitor.catch_up(journal)
    journal.path.unlink()

    verdict = monitor.catch_up(journal)

    assert verdict.alarm
    assert "cannot be read" in verdict.reason


def test_inputs_that_change_are_a_warning_only() -> None:
    monitor = Monitor(OPTIONS, inputs())
    for _ in range(200):
        monitor.add(replace(GOOD, score=4.0))

    assert monitor.verdict.warning
    assert not monitor.verdict.alarm


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    journal, path = FileJournal(tmp_path / "audits.jsonl"), tmp_path / "monitor.json"
    whole = Monitor(OPTIONS, inputs())
    for number in range(60):
        journal.append(BAD if number % 9 == 0 else GOOD)
        if number == 30:
            first = Monitor(OPTIONS, inputs())
            first.catch_up(journal)
            first.save(path)

    again = load(path, OPTIONS, inputs)
    assert again.audits == 31
    assert again.catch_up(journal) == whole.catch_up(journal)
    assert again.to_json() == whole.to_json()


@pytest.mark.parametrize("place", [0, 40, 200, -30, -2])
def test_a_damaged_state_is_made_again_from_the_journal(tmp_path: Path, place: int) -> None:
    journal, path = FileJournal(tmp_path / "audits.jsonl"), tmp_path / "monitor.json"
    for _ in range(40):
        journal.append(BAD)
    monitor = Monitor(OPTIONS)
    monitor.catch_up(journal)
    monitor.save(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 3
    path.write_bytes(content[: len(content) // 2] if place == 0 else content)

    assert load(path, OPTIONS).catch_up(journal).alarm


def test_a_state_of_other_options_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "monitor.json"
    monitor = Monitor(OPTIONS)
    monitor.add(GOOD)
    monitor.save(path)

    assert load(path, replace(OPTIONS, risk=0.1)).audits == 0
    assert load(path, OPTIONS).audits == 1
    assert json.loads(path.read_text())["schema_version"] == 1
