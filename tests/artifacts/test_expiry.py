"""Levels whose certificates have expired, with and without grace."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lynxstop.artifacts.bundle import Bundle
from lynxstop.artifacts.expiry import NO_GRACE, expired, expiry_dates
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.cli import app
from lynxstop.workflows.calibrate_bundle import calibrate_bundle, install
from tests.support.tiny_bundle import recorded, tiny_bundle
from tests.support.worlds import sticky

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("expires", "grace", "gone"),
    [
        (None, 0 * DAY, False),
        (NOW + DAY, 0 * DAY, False),
        (NOW - DAY, 0 * DAY, True),
        (NOW - DAY, 2 * DAY, False),
        (NOW - 3 * DAY, 2 * DAY, True),
        (datetime(9999, 12, 31, tzinfo=UTC), 30 * DAY, False),
    ],
)
def test_a_date_has_passed_after_its_grace(expires: datetime | None, grace: timedelta, gone: bool) -> None:
    assert expired(expires, grace=grace, now=NOW) == gone


def test_levels_of_a_bundle_expire_one_by_one(tmp_path: Path) -> None:
    # given two levels certified by separate commands, of which one expires
    table: Any = sticky().draw(500, 0)
    bundle = tiny_bundle(tmp_path / "bundle", table.scores)
    data = recorded(table)
    install(bundle, calibrate_bundle(bundle, data, CalibrationOptions(risks=[0.2])))
    asked = CalibrationOptions(risks=[0.1], expires=datetime.now(UTC) + DAY)
    install(Bundle.load(bundle.path), calibrate_bundle(bundle, data, asked))
    policy = Bundle.load(bundle.path).policy
    # then it alone is gone after that day, and later with grace
    after = datetime.now(UTC) + 2 * DAY

    def gone(now: datetime, grace: timedelta = NO_GRACE) -> list[float]:
        dates = expiry_dates(bundle.path, policy, grace)
        return [level.risk for level in policy.levels if dates.expired(level.risk, level.group, now)]

    assert gone(datetime.now(UTC)) == []
    assert gone(after) == [0.1]
    assert gone(after, 7 * DAY) == []
    # and `inspect` says so
    shown = [(v["risk"], v["expires"] is None, v["expired"]) for v in _inspected(bundle.path)]
    assert sorted(shown) == [(0.1, False, False), (0.2, True, False)]


def test_inspect_names_a_level_that_has_expired(tmp_path: Path) -> None:
    table: Any = sticky().draw(500, 0)
    bundle = tiny_bundle(tmp_path / "bundle", table.scores)
    asked = CalibrationOptions(risks=[0.2], expires=datetime.now(UTC) - DAY)
    install(bundle, calibrate_bundle(bundle, recorded(table), asked))
    assert [level["expired"] for level in _inspected(bundle.path)] == [True]
    assert "(expired)" in CliRunner().invoke(app, ["inspect", str(bundle.path)]).output


def _inspected(path: Path) -> Any:
    return json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).stdout)["levels"]
