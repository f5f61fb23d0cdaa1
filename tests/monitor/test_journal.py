"""Audits survive other writers, cuts and garbling; what is lost counts as a loss."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lynxstop.errors import DataError
from lynxstop.monitor.entries import Audit, Damaged, from_line, to_line
from lynxstop.monitor.journal import FileJournal, Journal, RedisJournal

AUDIT = Audit(model="m", group=None, risk=0.05, exited=True, loss=0.0, score=1.5, cues=3, at=1.0)


def entries(journal: Journal, start: int = 0) -> list[object]:
    return [entry for entry, _ in journal.read(start)]


def test_what_was_appended_is_read_in_order(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "a" / "audits.jsonl")
    for loss in (0.0, 0.5, 1.0):
        journal.append(replace(AUDIT, loss=loss))

    first, offset = next(iter(journal.read(0)))

    assert first == AUDIT
    assert entries(journal, offset) == [replace(AUDIT, loss=0.5), replace(AUDIT, loss=1.0)]
    assert (tmp_path / "a" / "audits.jsonl").stat().st_mode & 0o077 == 0


def test_a_torn_line_is_one_damaged_audit_and_the_next_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "audits.jsonl"
    journal = FileJournal(path)
    journal.append(AUDIT)
    path.write_bytes(path.read_bytes() + to_line(AUDIT)[:-20])

    assert entries(journal) == [AUDIT]
    journal.append(AUDIT)
    assert entries(journal) == [AUDIT, Damaged(), AUDIT]


@pytest.mark.parametrize("missing", [1, 20])
def test_a_full_disk_leaves_no_half_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    path = tmp_path / "audits.jsonl"
    journal, write = FileJournal(path), os.write
    journal.append(AUDIT)
    path.write_bytes(path.read_bytes() + b"torn")
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda handle, content: write(handle, content[:-missing]))
        with pytest.raises(DataError, match="is the disk full"):
            journal.append(AUDIT)
    journal.append(AUDIT)

    assert entries(journal) == [AUDIT, Damaged(), AUDIT]


@pytest.mark.parametrize("place", range(0, len(to_line(AUDIT)) - 1, 7))
def test_any_changed_byte_is_found(place: int) -> None:
    line = bytearray(to_line(AUDIT))
    line[place] ^= 1

    assert from_line(bytes(line)) in (Damaged(), AUDIT)
    assert from_line(bytes(line)) == Damaged() or bytes(line[:8]).lower() == to_line(AUDIT)[:8]


@pytest.mark.parametrize("wrong", [{"loss": 2.0}, {"risk": 0.0}, {"loss": "1"}])
def test_a_line_with_an_impossible_audit_is_damaged(wrong: dict[str, object]) -> None:
    assert from_line(to_line(replace(AUDIT, **wrong))) == Damaged()  # type: ignore[arg-type]


def test_a_journal_that_shrank_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "audits.jsonl"
    journal = FileJournal(path)
    journal.append(AUDIT)
    size = path.stat().st_size
    path.write_bytes(b"")

    with pytest.raises(DataError, match="cut short"):
        entries(journal, size)
    path.unlink()
    with pytest.raises(DataError, match="gone"):
        entries(journal, size)


WRITER = """
import sys
from pathlib import Path
from lynxstop.monitor.entries import Audit
from lynxstop.monitor.journal import FileJournal

journal = FileJournal(Path(sys.argv[1]))
for _ in range(200):
    journal.append(Audit("m", None, 0.05, True, 0.0, score=1.5, cues=3, at=1.0))
"""


def test_two_processes_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "audits.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) for _ in range(2)]

    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert entries(FileJournal(path)) == [AUDIT] * 400


def test_without_the_extra_redis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(Exception, match=r"lynxstop\[redis\]"):
        RedisJournal("redis://127.0.0.1:1/0")
