"""`lynxstop monitor`: exit statuses that scripts rely on, and resets that proxies notice."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lynxstop.cli import _output, app
from lynxstop.errors import DataError
from lynxstop.monitor.entries import Audit
from lynxstop.monitor.journal import FileJournal
from lynxstop.monitor.levels import JOURNAL, open_state

GOOD, BAD = (Audit("m", None, 0.05, exited=True, loss=loss) for loss in (0.0, 1.0))


def write(folder: Path, *entries: Audit) -> None:
    for entry in entries:
        FileJournal(folder / JOURNAL).append(entry)


def call(*words: object, status: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["monitor", *map(str, words), "--json"])
    assert result.exit_code == status, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_level_that_holds(tmp_path: Path) -> None:
    write(tmp_path, *[GOOD] * 20, BAD)
    found = call("status", tmp_path)

    [level] = found["levels"]
    assert (found["state"], level["audits"], level["lost"]) == ("ok", 21, 1.0)
    assert level["live_risk"] == pytest.approx(1 / 21)


def test_an_alarm_is_an_exit_status_until_the_reset(tmp_path: Path) -> None:
    write(tmp_path, *[BAD] * 10)
    live = open_state(tmp_path)
    assert call("status", tmp_path, status=1)["state"] == "alarm"
    assert call("reset", tmp_path, "--model", "other")["reset"] == 0
    assert call("status", tmp_path, status=1)["levels"][0]["reason"].endswith("10 losses in 10 audits.")
    assert call("reset", tmp_path, "--risk", "5%")["reset"] == 1
    assert call("status", tmp_path)["levels"] == []
    live.catch_up()
    assert not live.findings


def test_what_is_unknown_is_not_well(tmp_path: Path) -> None:
    write(tmp_path, *[GOOD] * 20)
    open_state(tmp_path).save()
    (tmp_path / JOURNAL).write_bytes(b"")

    assert call("status", tmp_path, status=3)["state"] == "unknown"
    assert call("reset", tmp_path, "--model", "m")["state"] == "unknown"
    assert call("reset", tmp_path)["state"] == "ok"


def test_the_table_says_what_the_json_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_output.console, "_width", 200)
    write(tmp_path, *[BAD] * 10)
    result = CliRunner().invoke(app, ["monitor", "status", str(tmp_path)])

    assert result.exit_code == 1
    assert "alarm" in result.stderr
    assert "100.00%" in result.stderr
    assert "has been above 0.05 since the start or the last reset" in result.stderr


def test_a_folder_without_audits_says_which_it_wants(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["monitor", "status", str(tmp_path)])

    assert isinstance(result.exception, DataError)
    assert "[monitor] state" in str(result.exception)
