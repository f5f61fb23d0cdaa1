"""Files are written whole or not at all."""

import errno
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


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    target = tmp_path / "file"

    with pytest.raises(DataError, match="No space left"), atomic.replacing(target):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_pass(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic.replacing(tmp_path / "file"):
        raise PermissionError
