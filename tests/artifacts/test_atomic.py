"""Files are written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from lynxstop.artifacts import atomic
from lynxstop.errors import DataError


def test_an_error_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    with pytest.raises(UnicodeEncodeError), atomic.replacing(target) as temporary:
        temporary.write_text("half \ud800")

    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_content_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def watched_sync(handle: int) -> None:
        steps.append("sync")
        sync(handle)

    def watched_replace(path: Path, target: Path) -> Path:
        steps.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "replace", watched_replace)

    atomic.write_text(tmp_path / "file", "new")

    assert steps == ["sync", "name"]


def test_the_temporary_file_is_beside_and_the_result_is_for_all_to_read(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "folder" / "file") as temporary:
        # a rename is atomic within one file system only
        assert temporary.parent == tmp_path / "folder"
        assert not (tmp_path / "folder" / "file").exists()

    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    target = tmp_path / "file"

    with pytest.raises(DataError, match="No space left"), atomic.replacing(target):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_pass(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic.replacing(tmp_path / "file"):
        raise PermissionError
