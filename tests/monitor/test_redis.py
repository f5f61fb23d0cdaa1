"""Replicas share a journal in a real Redis server, which goes away, is empty again, hangs, or is damaged."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lynxstop.errors import DataError
from lynxstop.monitor.entries import Audit, Reset, to_line
from lynxstop.monitor.journal import Journal, RedisJournal
from lynxstop.monitor.levels import LevelMonitors, open_monitors
from lynxstop.monitor.monitor import LevelKey, MonitorOptions
from tests.support.redis_server import Server, redis_server

pytest.importorskip("redis")

KEY = LevelKey("m", None, 0.05)
GOOD = Audit(model="m", group=None, risk=0.05, exited=True, loss=0.0, score=1.5, cues=3)
BAD = replace(GOOD, loss=1.0)
LIST = "lynxstop:audits"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with redis_server(tmp_path) as made:
        yield made


def entries(journal: Journal, start: int = 0) -> list[object]:
    return [entry for entry, _ in journal.read(start)]


def opened(server: Server) -> LevelMonitors:
    return open_monitors(RedisJournal(server.url), MonitorOptions())


def state(monitors: LevelMonitors) -> str:
    return "unknown" if monitors.trouble else monitors.findings[KEY].state


def test_replicas_share_a_journal(server: Server) -> None:
    one, other = RedisJournal(server.url), RedisJournal(server.url)
    one.append(GOOD)
    other.append(BAD)

    assert entries(one) == [GOOD, BAD]
    assert entries(other, 1) == [BAD]
    with pytest.raises(DataError, match="cut short"):
        entries(one, 3)
    server.kill()
    with pytest.raises(DataError, match="Redis"):
        one.append(GOOD)
    with pytest.raises(DataError, match="Redis"):
        entries(one)


def test_a_server_that_comes_back_empty_is_unknown_to_all_until_a_reset(server: Server) -> None:
    live, idle = opened(server), opened(server)
    for _ in range(10):
        live.journal.append(BAD)
    live.catch_up()
    idle.catch_up()
    assert state(live) == state(idle) == "alarm"
    server.kill()
    live.catch_up()
    assert state(live) == "unknown"
    server.start()
    for _ in range(20):
        live.journal.append(GOOD)
    # then nobody takes the new list for the old one, a replica that is started now included
    live.catch_up()
    idle.catch_up()
    assert state(live) == state(idle) == state(opened(server)) == "unknown"
    live.journal.append(Reset())
    live.journal.append(GOOD)
    live.catch_up()
    assert state(live) == state(opened(server)) == "ok"


def test_an_entry_that_a_hanging_server_took_is_not_kept_twice(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = RedisJournal(server.url, seconds=0.2)
    journal.append(GOOD)
    server.process.send_signal(signal.SIGSTOP)
    for _ in range(4):
        with pytest.raises(DataError, match="did not keep"):
            journal.append(BAD)
    server.process.send_signal(signal.SIGCONT)
    journal.append(BAD)
    journal.append(GOOD)
    assert entries(journal) == [GOOD, BAD, GOOD]


@pytest.mark.parametrize("size", [0, 1, 9, 60, -2])
def test_a_torn_value_is_a_loss(server: Server, size: int) -> None:
    live = opened(server)
    live.journal.append(GOOD)
    for _ in range(10):
        server.client.rpush(LIST, to_line(GOOD)[:size])
    live.catch_up()

    assert state(live) == state(opened(server)) == "alarm"
    assert live.damage.total == 10


def test_a_key_that_holds_something_else_is_unknown(server: Server) -> None:
    live = opened(server)
    live.journal.append(GOOD)
    live.catch_up()
    server.client.delete(LIST)
    server.client.set(LIST, "something")
    live.catch_up()

    assert state(live) == state(opened(server)) == "unknown"
