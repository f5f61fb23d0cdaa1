"""All levels of a deployment: never a wrong "all is well", whatever happens to the files."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lynxstop.errors import DataError
from lynxstop.monitor.entries import Audit, Begun, Reset
from lynxstop.monitor.journal import FileJournal
from lynxstop.monitor.levels import JOURNAL, SNAPSHOT, LevelMonitors, open_monitors, open_state
from lynxstop.monitor.monitor import LevelKey, MonitorOptions

KEY, OPTIONS = LevelKey("m", None, 0.05), MonitorOptions()
GOOD = Audit(model="m", group=None, risk=0.05, exited=True, loss=0.0, score=1.0, cues=4)
BAD = replace(GOOD, loss=1.0)


def journal(folder: Path, *entries: Audit | Begun | Reset) -> FileJournal:
    made = FileJournal(folder / JOURNAL)
    for entry in entries:
        made.append(entry)
    return made


def opened(folder: Path, options: MonitorOptions | None = OPTIONS) -> LevelMonitors:
    return open_monitors(FileJournal(folder / JOURNAL), options, folder / SNAPSHOT)


def state(monitors: LevelMonitors, key: LevelKey = KEY) -> str:
    return "unknown" if monitors.trouble else monitors.findings[key].state


def test_every_level_has_its_own_audits(tmp_path: Path) -> None:
    journal(tmp_path, *[BAD] * 10, *[replace(GOOD, risk=0.1)] * 3, replace(BAD, group="chat"))

    found = opened(tmp_path)

    assert state(found) == "alarm"
    assert state(found, LevelKey("m", None, 0.1)) == "ok"
    assert found.findings[LevelKey("m", "chat", 0.05)].audits == 1


def test_two_processes_come_to_the_same_verdict(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    for number in range(60):
        (one if number % 2 else other).journal.append(BAD if number % 4 == 0 else GOOD)
        if number == 30:
            one.catch_up()
    one.catch_up()
    other.catch_up()

    assert one.findings == other.findings
    assert state(one) == "alarm"


def test_an_alarm_survives_restarts_without_a_snapshot_and_with_one(tmp_path: Path) -> None:
    journal(tmp_path, *[BAD] * 10, *[GOOD] * 500)
    first = opened(tmp_path)
    assert first.findings[KEY].e_value < 100
    first.save()

    assert state(opened(tmp_path)) == "alarm"
    (tmp_path / SNAPSHOT).unlink()
    assert state(opened(tmp_path)) == "alarm"


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    log, whole = journal(tmp_path), opened(tmp_path)
    for number in range(60):
        log.append(BAD if number % 9 == 0 else GOOD)
        if number == 30:
            opened(tmp_path).save()
    whole.catch_up()

    assert opened(tmp_path).findings == whole.findings


@pytest.mark.parametrize("place", [0, 40, 200, -30, -2])
def test_a_damaged_snapshot_is_made_again_from_the_journal(tmp_path: Path, place: int) -> None:
    journal(tmp_path, *[BAD] * 40)
    opened(tmp_path).save()
    path = tmp_path / SNAPSHOT
    content = bytearray(path.read_bytes())
    content[place] ^= 3
    path.write_bytes(content[: len(content) // 2] if place == 0 else content)

    assert state(opened(tmp_path)) == "alarm"


def test_a_damaged_snapshot_beside_an_empty_journal_is_unknown(tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT).write_text('{"schema_version": 1, "mon')

    assert "snapshot is damaged" in opened(tmp_path).trouble


def test_a_snapshot_of_other_options_is_not_used(tmp_path: Path) -> None:
    journal(tmp_path, *[GOOD] * 5)
    opened(tmp_path).save()

    stricter = opened(tmp_path, MonitorOptions(level=0.001))
    assert stricter.findings[KEY].audits == 5
    assert stricter.monitors[KEY].test.level == 0.001
    assert opened(tmp_path, None).options == OPTIONS


@pytest.mark.parametrize("harm", ["gone", "shorter", "replaced", "empty"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_journal_that_is_not_what_was_read_is_unknown_until_a_reset(
    tmp_path: Path, harm: str, restarted: bool
) -> None:
    log = journal(tmp_path, Reset(), *[GOOD] * 20)
    live = opened(tmp_path)
    live.save()
    path = tmp_path / JOURNAL
    if harm == "gone":
        path.unlink()
    elif harm == "replaced":
        path.write_bytes(path.read_bytes().replace(b'"cues":4', b'"cues":5'))
    else:
        path.write_bytes(path.read_bytes()[: 0 if harm == "empty" else 300])
    log.append(GOOD)
    if restarted:
        live = opened(tmp_path)
    live.catch_up()
    assert state(live) == "unknown"
    assert "lynxstop monitor reset" in live.trouble

    log.append(GOOD)
    live.catch_up()
    assert state(live) == "unknown"
    assert state(opened(tmp_path)) == "unknown"
    assert opened(tmp_path, MonitorOptions(level=0.001)).trouble
    log.append(Reset())
    log.append(GOOD)
    live.catch_up()
    assert state(live) == state(opened(tmp_path)) == "ok"
    assert live.findings[KEY].audits == 1


def test_a_journal_that_cannot_be_read_is_unknown_only_while_it_cannot(tmp_path: Path) -> None:
    journal(tmp_path, *[GOOD] * 3)
    live = opened(tmp_path)
    (tmp_path / JOURNAL).rename(tmp_path / "away")
    (tmp_path / JOURNAL).mkdir()
    live.catch_up()
    assert "cannot be read" in live.trouble

    (tmp_path / JOURNAL).rmdir()
    (tmp_path / "away").rename(tmp_path / JOURNAL)
    live.catch_up()
    assert state(live) == "ok"


def test_a_torn_line_counts_for_every_level_also_one_seen_later(tmp_path: Path) -> None:
    log = journal(tmp_path, GOOD)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes() + b'0123 {"model":"m","gro')
    log.append(replace(GOOD, risk=0.1))
    found = opened(tmp_path).findings

    assert [one.lost for one in found.values()] == [1.0, 1.0]
    assert [one.damaged for one in found.values()] == [1, 1]


def test_an_audit_that_has_begun_counts_once_whoever_reports_it(tmp_path: Path) -> None:
    begun, done = Begun("a", "m", None, 0.05), replace(BAD, id="a")
    log = journal(tmp_path, begun, done, done, replace(GOOD, id="a"))
    live = opened(tmp_path)
    assert (live.findings[KEY].audits, live.findings[KEY].lost) == (1, 1.0)
    assert not live.pending

    log.append(Begun("b", "m", None, 0.05))
    live.catch_up()
    live.save()
    assert live.overdue(60) == []
    assert live.overdue(-1) == [("b", KEY)]
    assert opened(tmp_path).overdue(-1) == [("b", KEY)]


def test_a_reset_is_of_the_levels_that_it_names(tmp_path: Path) -> None:
    other = replace(BAD, model="n")
    log = journal(tmp_path, *[BAD] * 10, *[other] * 10, Begun("a", "m", None, 0.05), Reset(model="m"))
    live = opened(tmp_path)

    assert list(live.findings) == [LevelKey("n", None, 0.05)]
    assert not live.pending
    log.append(Reset())
    live.catch_up()
    assert not live.findings


def test_a_reset_of_a_level_leaves_no_damage_from_before_it(tmp_path: Path) -> None:
    log = journal(tmp_path, GOOD)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes() + b'0123 {"model":"m","gro\n' * 2)
    log.append(Reset(risk=0.05))
    log.append(Reset(model="n"))
    path.write_bytes(path.read_bytes() + b"garbled\n")
    for entry in (GOOD, replace(GOOD, risk=0.1), replace(GOOD, model="n", risk=0.1)):
        log.append(entry)
    live = opened(tmp_path)
    counts = {LevelKey("m", None, 0.05): 1, LevelKey("m", None, 0.1): 3, LevelKey("n", None, 0.1): 1}

    assert {key: found.damaged for key, found in live.findings.items()} == counts
    # What came before a reset is known after a restart too, for levels that have no audits yet.
    live.save()
    log.append(replace(GOOD, model="n", risk=0.2))
    assert opened(tmp_path).findings[LevelKey("n", None, 0.2)].damaged == 1
    log.append(Reset())
    log.append(GOOD)
    assert opened(tmp_path).findings[KEY].damaged == 0


WRITER = """
import sys
from pathlib import Path
from lynxstop.monitor.entries import Audit
from lynxstop.monitor.levels import open_state

monitors = open_state(Path(sys.argv[1]))
for number in range(150):
    monitors.journal.append(Audit("m", None, 0.05, True, float(number % 5 == 0)))
    monitors.catch_up()
    monitors.save()
"""


def test_two_workers_that_write_journal_and_snapshot_at_once(tmp_path: Path) -> None:
    journal(tmp_path, GOOD)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]

    with_snapshot = opened(tmp_path).findings[KEY]
    (tmp_path / SNAPSHOT).unlink()
    assert with_snapshot == opened(tmp_path).findings[KEY]
    assert (with_snapshot.audits, with_snapshot.lost, with_snapshot.damaged) == (301, 60.0, 0)
    assert with_snapshot.state == "alarm"


def test_a_folder_without_audits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no audits"):
        open_state(tmp_path)
    # As one that this user may not look into; root may look into all.
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        open_state(tmp_path / ("x" * 300))


def test_a_snapshot_is_written_when_much_was_read(tmp_path: Path) -> None:
    log, live = journal(tmp_path), opened(tmp_path)
    for count in (199, 1):
        for _ in range(count):
            log.append(GOOD)
        live.catch_up()
        live.save(force=False)
        assert (tmp_path / SNAPSHOT).exists() is (count == 1)
    assert json.loads((tmp_path / SNAPSHOT).read_text())["monitors"][0]["audits"] == 200
