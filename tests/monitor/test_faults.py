"""Whatever happens to the state of the audits, an alarm or what is unknown never becomes "all is well"."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lynxstop.errors import DataError
from lynxstop.monitor.entries import Audit, Damaged, Lost, Reset, from_line, read_line, to_line
from lynxstop.monitor.journal import FileJournal
from lynxstop.monitor.levels import JOURNAL, SNAPSHOT, LevelMonitors, open_monitors
from lynxstop.monitor.monitor import LevelKey, MonitorOptions
from lynxstop.workflows.audited_traffic import read_audits

KEY, OPTIONS = LevelKey("m", None, 0.05), MonitorOptions()
GOOD = Audit(model="m", group=None, risk=0.05, exited=True, loss=0.0, score=1.0, cues=4)
BAD = replace(GOOD, loss=1.0)
NOT_WELL = {"alarm", "unknown"}


def opened(folder: Path) -> LevelMonitors:
    return open_monitors(FileJournal(folder / JOURNAL), OPTIONS, folder / SNAPSHOT)


def state(monitors: LevelMonitors) -> str:
    if monitors.trouble:
        return "unknown"
    return monitors.findings[KEY].state if KEY in monitors.findings else "ok"


def alarmed(folder: Path) -> LevelMonitors:
    """Monitors of a level with just enough losses for the alarm, as a proxy keeps them."""
    live = opened(folder)
    live.save()
    while state(live) != "alarm":
        live.journal.append(BAD)
        live.catch_up()
        live.save(force=False)
    return live


def flips(content: bytes) -> Iterator[bytes]:
    """The content with each of its bytes changed, one at a time."""
    for place in range(len(content)):
        yield content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_any_prefix_of_the_journal_keeps_the_alarm(tmp_path: Path) -> None:
    live, path = alarmed(tmp_path), tmp_path / JOURNAL
    whole, snapshot = path.read_bytes(), (tmp_path / SNAPSHOT).read_bytes()
    for size in range(0, len(whole), 5):
        path.write_bytes(whole[:size])
        (tmp_path / SNAPSHOT).write_bytes(snapshot)
        assert state(opened(tmp_path)) in NOT_WELL, size
    live.catch_up()
    assert state(live) in NOT_WELL


def test_any_changed_byte_of_the_journal_keeps_the_alarm(tmp_path: Path) -> None:
    live, path = alarmed(tmp_path), tmp_path / JOURNAL
    snapshot = (tmp_path / SNAPSHOT).read_bytes()
    for changed in flips(path.read_bytes()):
        path.write_bytes(changed + to_line(GOOD))
        (tmp_path / SNAPSHOT).unlink()
        assert state(opened(tmp_path)) == "alarm"
        (tmp_path / SNAPSHOT).write_bytes(snapshot)
        assert state(opened(tmp_path)) in NOT_WELL
    live.catch_up()
    assert state(live) in NOT_WELL


def test_any_prefix_and_any_changed_byte_of_the_snapshot_keeps_the_alarm(tmp_path: Path) -> None:
    alarmed(tmp_path)
    whole = (tmp_path / SNAPSHOT).read_bytes()
    for damaged in (*flips(whole), *(whole[:size] for size in range(0, len(whole), 7))):
        (tmp_path / SNAPSHOT).write_bytes(damaged)
        assert state(opened(tmp_path)) == "alarm"


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_what_was_lost_once_stays_unknown_though_the_snapshot_is_damaged_or_gone(
    tmp_path: Path, harm: str
) -> None:
    live, path = alarmed(tmp_path), tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:100]) if harm == "cut" else path.unlink()
    live.catch_up()
    assert state(live) == "unknown"
    whole = (tmp_path / SNAPSHOT).read_bytes()
    for damaged in (*flips(whole), None):
        (tmp_path / SNAPSHOT).unlink()
        if damaged is not None:
            (tmp_path / SNAPSHOT).write_bytes(damaged)
        assert state(opened(tmp_path)) == "unknown"
    # no certificate comes of such a journal until it is reset
    live.journal.append(GOOD)
    with pytest.raises(DataError, match="lost"):
        read_audits(live.journal)
    live.journal.append(Reset())
    live.journal.append(GOOD)
    assert state(opened(tmp_path)) == "ok"
    assert read_audits(live.journal).levels[KEY].count == 1


def test_two_lines_that_became_one_are_two_losses() -> None:
    merged = to_line(GOOD).replace(b"\n", b"\v") + to_line(BAD)

    assert read_line(merged) == [Damaged(), Damaged()]
    assert read_line(to_line(BAD)) == [BAD]
    assert from_line(to_line(Lost("gone"))) == Lost("gone")


AUDITOR = """
import sys, time
from pathlib import Path
from lynxstop.monitor.entries import Audit, Begun
from lynxstop.monitor.levels import open_monitors, SNAPSHOT
from lynxstop.monitor.journal import FileJournal
from lynxstop.monitor.monitor import MonitorOptions

path, name = Path(sys.argv[1]), sys.argv[2]
monitors = open_monitors(FileJournal(path), MonitorOptions(), path.parent / SNAPSHOT)
for number in range(10**6):
    monitors.journal.append(Begun(f"{name}-{number}", "m", None, 0.05))
    monitors.catch_up()
    monitors.save()
    monitors.journal.append(Audit("m", None, 0.05, exited=True, loss=0.0, id=f"{name}-{number}"))
"""


def test_auditors_killed_at_any_time_leave_nothing_but_their_last_audit_open(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    for generation in range(3):
        size = path.stat().st_size if path.exists() else 0
        pair = [
            subprocess.Popen([sys.executable, "-c", AUDITOR, str(path), f"{generation}-{who}"])
            for who in "ab"
        ]
        while not path.exists() or path.stat().st_size < size + 20_000 * (generation + 1):
            assert [one.poll() for one in pair] == [None, None]
            time.sleep(0.01)
        for one in pair:
            one.send_signal(signal.SIGKILL)
            one.wait()
    found = opened(tmp_path)
    begun = [one for one, _ in found.journal.read(0) if not isinstance(one, Audit)]
    assert state(found) == "ok"
    assert found.damage.total <= 6
    assert len(found.overdue(-1)) <= 6
    assert found.findings[KEY].audits >= len(begun) - 6
    # whoever goes on gives them up: each is a loss, once
    for name, key in found.overdue(-1) * 2:
        found.journal.append(Audit(*key, exited=True, loss=1.0, id=name))
    lost = len(found.pending)
    found.catch_up()
    assert (found.findings[KEY].lost, found.pending) == (lost + found.damage.total, {})


def test_clocks_that_jump_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live, steady = opened(tmp_path / "a"), opened(tmp_path / "b")
    for number in range(60):
        entry = replace(BAD if number % 4 == 0 else GOOD, at=[1e12, 0.0, -5.0][number % 3])
        monkeypatch.setattr(time, "time", lambda at=entry.at: at)
        live.journal.append(entry)
        live.catch_up()
        live.save()
        steady.journal.append(replace(entry, at=float(number)))
    steady.catch_up()
    assert live.findings == steady.findings == opened(tmp_path / "a").findings
    assert state(live) == "alarm"
    assert live.overdue(60) == []
