"""The promise of the alarm: false with at most its level over long streams, and soon when it is right.

Each stream is a level of its own in one journal, which is read as the proxy reads it. Streams of 10,000
audits are in tests/monitor/test_sequential.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, norm

from lynxstop.monitor.entries import Audit, to_line
from lynxstop.monitor.journal import FileJournal
from lynxstop.monitor.levels import JOURNAL, LevelMonitors, open_monitors
from lynxstop.monitor.monitor import LevelKey, MonitorOptions
from lynxstop.monitor.sequential import log_factors

RISK, LEVEL, STREAMS, BLOCK = 0.05, 0.01, 200, 60


def alarms(folder: Path, losses: NDArray[np.bool_], options: MonitorOptions) -> NDArray[np.bool_]:
    """Run audits through a journal, one stream per column; return which raised the alarm.

    A stream ends with the block of audits in which it raised the alarm, since that stays.
    """
    streams = losses.shape[1]
    keys = [LevelKey(f"stream-{stream}", None, RISK) for stream in range(streams)]
    lines = [[to_line(Audit(*key, exited=True, loss=loss)) for loss in (0.0, 1.0)] for key in keys]
    journal, found = folder / JOURNAL, np.zeros(streams, dtype=bool)
    journal.touch()
    monitors: LevelMonitors = open_monitors(FileJournal(journal), options)
    for start in range(0, len(losses), BLOCK):
        going = np.flatnonzero(~found).tolist()
        with journal.open("ab") as file:
            for row in losses[start : start + BLOCK].astype(int):
                file.writelines(lines[stream][row[stream]] for stream in going)
        monitors.catch_up()
        assert not monitors.trouble
        assert all(
            monitors.monitors[keys[stream]].audits == min(start + BLOCK, len(losses)) for stream in going
        )
        found |= np.array([monitors.monitors[key].test.alarm for key in keys])
    findings = monitors.findings
    assert [findings[key].alarm for key in keys] == found.tolist()
    return found


def draw(rate: float, audits: int, seed: int, streams: int = STREAMS) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((audits, streams)) < rate


def test_alarms_of_levels_that_keep_their_promise_are_no_more_than_the_level(tmp_path: Path) -> None:
    found = alarms(tmp_path, draw(RISK, 300, seed=1), MonitorOptions(level=LEVEL))

    # Exact: so many false alarms or more have a probability below 1 in 10,000 at the level.
    assert binom.sf(found.sum() - 1, STREAMS, LEVEL) > 1e-4


@pytest.mark.parametrize(("rate", "published"), [(0.10, 241), (0.20, 34)])
def test_most_broken_promises_are_found_within_twice_the_published_delay(
    tmp_path: Path, rate: float, published: int
) -> None:
    found = alarms(tmp_path, draw(rate, 2 * published, seed=2), MonitorOptions(level=LEVEL))

    # Exact: were half of them found or fewer, so many would have a probability below 1 in 10,000.
    assert binom.sf(found.sum() - 1, STREAMS, 0.5) < 1e-4


def test_a_bet_that_is_far_off_is_too_late() -> None:
    # The known-bad monitor: valid, but it bets on a risk of 90% alone.
    losses = draw(0.10, 2 * 241, seed=2)
    factors = [log_factors(RISK, loss)[-1] for loss in (0.0, 1.0)]
    found = (np.where(losses, factors[1], factors[0]).cumsum(axis=0) >= -np.log(LEVEL)).any(axis=0)

    assert binom.sf(found.sum() - 1, STREAMS, 0.5) > 0.99


def test_looking_at_the_observed_risk_after_every_audit_breaks_that_promise() -> None:
    # The known-bad monitor: a test of the observed risk that is right when it is looked at once.
    losses = draw(RISK, 1000, seed=1).cumsum(axis=0)
    counts = np.arange(1, 1001)[:, None]
    score = (losses / counts - RISK) / np.sqrt(RISK * (1 - RISK) / counts)
    alarmed = (score > norm.isf(LEVEL))[10:].any(axis=0)

    assert binom.sf(alarmed.sum() - 1, STREAMS, LEVEL) < 1e-6
