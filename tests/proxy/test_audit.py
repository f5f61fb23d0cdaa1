"""Audits through the real proxy: what is counted, what is never harmed, and what follows an alarm."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from lynxstop.errors import ConfigError
from lynxstop.grading.graders import name_of
from lynxstop.monitor.entries import Audit, Begun, Reset
from lynxstop.monitor.journal import FileJournal, RedisJournal
from lynxstop.monitor.levels import JOURNAL, open_state
from lynxstop.monitor.monitor import Finding, LevelKey
from lynxstop.proxy import full_answer, live_risk
from lynxstop.proxy.audit import Auditor
from lynxstop.proxy.config import MonitorConfig
from lynxstop.proxy.monitoring import grader_of
from tests.support.canned import CHAT
from tests.support.redis_server import redis_server
from tests.support.servers import Proxied, eventually
from tests.support.watching import watching

KEY = LevelKey("toy", None, 0.05)
BAD = Audit("toy", None, 0.05, exited=True, loss=1.0)


def ask(
    proxy: Proxied,
    number: int = 7,
    path: str = CHAT,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> httpx.Response:
    body = {
        "model": "toy",
        "messages": [{"role": "user", "content": f"What is {number} + 5 * 2 - 3?"}],
        **more,
    }
    answer = httpx.post(proxy.url + path, json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def audited(proxy: Proxied) -> dict[str, float]:
    samples = [s for metric in proxy.app.metrics.registry.collect() for s in metric.samples]
    found = {s.labels["outcome"]: s.value for s in samples if s.name == "lynxstop_audits_total"}
    return {name: value for name, value in found.items() if value}


def counted(proxy: Proxied, count: int) -> bool:
    return sum(audited(proxy).values()) == count


def section(folder: Path, **more: Any) -> dict[str, Any]:
    return {"monitor": {"state": folder, "audit": 1.0, "key": "k", **more}}


def finding(folder: Path, key: LevelKey = KEY) -> Finding:
    return open_state(folder).findings[key]


@pytest.mark.parametrize("stream", [False, True])
def test_exits_are_compared_with_the_thinking_that_they_cut(mock: Any, tmp_path: Path, stream: bool) -> None:
    with watching(mock[0], sections=section(tmp_path, on_alarm="warn")) as proxy:
        for number in range(12):
            assert '"stopped":true' in ask(proxy, number, stream=stream).text.replace(" ", "")
        eventually(lambda: sum(audited(proxy).values()) == 12)
        counts = audited(proxy)
        generated = proxy.count("lynxstop_audit_tokens_total")
    # The toy model revises some of its first answers, and the audits see which.
    assert set(counts) == {"agree", "differ"}
    found = finding(tmp_path)
    assert (found.audits, found.exits, found.lost) == (12, 12, counts["differ"])
    assert found.tokens == generated > 100


def test_the_finished_thinking_is_what_the_model_would_have_thought(mock: Any, tmp_path: Path) -> None:
    # The toy model continues its own text, so that each audit has to say what both runs in full say.
    losses = []
    with watching(mock[0], sections=section(tmp_path, on_alarm="warn")) as proxy:
        for number in range(8):
            early = ask(proxy, number).json()["choices"][0]["message"]["content"]
            full = ask(proxy, number, lynxstop={"risk": "off"}).json()["choices"][0]["message"]["content"]
            losses.append(float(early.split("\\boxed")[1] != full.split("\\boxed")[1]))
            eventually(partial(counted, proxy, len(losses)))
    entries = [entry for entry, _ in FileJournal(tmp_path / JOURNAL).read(0) if isinstance(entry, Audit)]
    assert [entry.loss for entry in entries] == losses
    assert 0 < sum(losses) < 8


def test_an_audit_says_at_which_threshold_and_whether_prompts_repeat(mock: Any, tmp_path: Path) -> None:
    with watching(mock[0], -1e9, sections=section(tmp_path / "a", key=None)) as proxy:
        for sent, number in enumerate((7, 7, 8), 1):
            ask(proxy, number)
            eventually(partial(counted, proxy, sent))
    entries = [
        entry for entry, _ in FileJournal(tmp_path / "a" / JOURNAL).read(0) if isinstance(entry, Audit)
    ]
    assert {entry.threshold for entry in entries} == {-1e9}
    assert all(entry.exit_score is not None and entry.exit_score > -1e9 for entry in entries)
    assert [entry.prompt == entries[0].prompt for entry in entries] == [True, True, False]
    assert len(entries[0].prompt) == 16
    # The digests of another journal cannot be compared with these.
    salts = [FileJournal(tmp_path / name / JOURNAL).salt() for name in "aab"]
    assert salts[0] == salts[1] != salts[2]


@pytest.mark.parametrize(
    ("configured", "certified", "refused"),
    [
        (None, "math", None),
        (None, "choice", None),
        ("choice", "choice", None),
        ("math", "choice", "was certified by 'choice'"),
        (None, "os.path:samefile", "grader of its own"),
        ("os.path:samefile", "os.path:samefile", None),
        ("choice", None, None),
    ],
)
def test_audits_compare_by_the_grader_that_certified(
    configured: str | None, certified: str | None, refused: str | None
) -> None:
    if refused is not None:
        with pytest.raises(ConfigError, match=refused):
            grader_of(configured, certified)
    else:
        assert name_of(grader_of(configured, certified)) == (configured or certified)


def test_a_request_that_never_exits_is_no_loss_and_costs_nothing(mock: Any, tmp_path: Path) -> None:
    with watching(mock[0], math.inf, sections=section(tmp_path)) as proxy:
        ask(proxy)
        eventually(lambda: audited(proxy) == {"no_exit": 1})
        assert proxy.count("lynxstop_audit_tokens_total") == 0
    found = finding(tmp_path)
    assert (found.audits, found.exits, found.lost) == (1, 0, 0.0)


def test_outcomes_count_in_the_order_of_arrival(mock: Any, tmp_path: Path) -> None:
    slow, quick = {"x-mock": "first_delay=2"}, {"x-mock": "delay=0"}
    with watching(mock[0], math.inf, sections=section(tmp_path)) as proxy, ThreadPoolExecutor() as pool:
        first = pool.submit(ask, proxy, 7, headers=slow)
        eventually(lambda: proxy.count("lynxstop_requests_active") == 1)
        ask(proxy, 8, headers=quick)
        eventually(lambda: counted(proxy, 1))
        # The second is known, and waits for the first, which may be a loss.
        assert list(FileJournal(tmp_path / JOURNAL).read(0)) == []
        first.result()
        eventually(lambda: len(list(FileJournal(tmp_path / JOURNAL).read(0))) == 2)
        ask(proxy, 7)
        eventually(lambda: len(list(FileJournal(tmp_path / JOURNAL).read(0))) == 3)
    entries = [entry for entry, _ in FileJournal(tmp_path / JOURNAL).read(0) if isinstance(entry, Audit)]
    assert entries[0].prompt == entries[2].prompt != entries[1].prompt


def test_what_is_not_promised_is_not_audited(mock: Any, tmp_path: Path) -> None:
    with watching(mock[0], sections=section(tmp_path)) as proxy:
        ask(proxy, lynxstop={"race": 2})
        ask(proxy, lynxstop={"risk": "off"})
        ask(proxy, lynxstop={"mode": "shadow"})
        ask(proxy, tools=[{"type": "function", "function": {"name": "f"}}])
        ask(proxy)
        eventually(lambda: sum(audited(proxy).values()) == 1)
    assert finding(tmp_path).audits == 1


@pytest.mark.parametrize(
    ("how", "outcome"), [("fails", "failed"), ("hangs", "timeout"), ("open", "unparsed")]
)
def test_an_audit_that_comes_to_nothing_is_a_loss_and_harms_nobody(
    mock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, outcome: str
) -> None:
    async def broken(*given: Any) -> full_answer.Answered:
        if how == "fails":
            raise RuntimeError("no")
        if how == "hangs":
            await asyncio.Event().wait()
        return full_answer.Answered(None, 3)

    monkeypatch.setattr("lynxstop.proxy.full_answer.finished_thinking", broken)
    with watching(mock[0], sections=section(tmp_path, seconds=0.3)) as proxy:
        assert ask(proxy).json()["lynxstop"]["stopped"]
        eventually(lambda: audited(proxy) == {outcome: 1})
    assert finding(tmp_path).lost == 1.0


def test_holdouts_think_to_the_end_and_are_answered_twice(mock: Any, tmp_path: Path) -> None:
    with watching(mock[0], sections=section(tmp_path, audit=0.0, holdout=1.0)) as proxy:
        for number in range(3):
            report = ask(proxy, number).json()["lynxstop"]
            assert not report["stopped"]
        eventually(lambda: sum(audited(proxy).values()) == 3)
        assert proxy.count("lynxstop_arm_requests_total", arm="holdout") == 3
        assert proxy.count("lynxstop_arm_thinking_tokens_total", arm="holdout") > 100
    found = finding(tmp_path)
    # The mock draws by the request's seed alone: it says the same twice.
    assert (found.audits, found.repeats, found.differed) == (0, 3, 0.0)


def test_a_canary_share_of_none_stops_nothing(mock: Any) -> None:
    with watching(mock[0], sections={"policy": {"risk": 0.05, "canary": 0.0}}) as proxy:
        assert "lynxstop" not in ask(proxy).json()
        assert proxy.count("lynxstop_passthrough_total", cause="canary") == 1


def notices(proxy: Proxied) -> tuple[int, str]:
    answer = httpx.get(proxy.url + "/ready", timeout=30)
    return answer.status_code, answer.json()["notices"]["monitor"]


@pytest.mark.parametrize(("on_alarm", "stopped"), [("think", False), ("warn", True), ("stricter", True)])
def test_after_an_alarm_exits_stop_as_configured(
    mock: Any, tmp_path: Path, on_alarm: str, stopped: bool
) -> None:
    journal = FileJournal(tmp_path / JOURNAL)
    for _ in range(10):
        journal.append(Audit("toy", None, 0.1, exited=True, loss=1.0))
    sections = section(tmp_path, on_alarm=on_alarm) | {"policy": {"risk": 0.1}}
    with watching(mock[0], sections=sections) as proxy:
        # It is in force from the first request on, says why and what to do, and no request fails.
        found = ask(proxy)
        assert ("lynxstop" in found.json()) is stopped
        if on_alarm == "stricter":
            assert proxy.count("lynxstop_exits_withheld_total", cause="alarm") == 1
            eventually(lambda: KEY in open_state(tmp_path).findings)
        status, said = notices(proxy)
        assert status == 200
        assert "has been above 0.1 since the start or the last reset" in said
        assert "lynxstop monitor reset" in said
        assert proxy.count("lynxstop_alarm", model="toy", group="", risk="0.1") == 1
        # Another level is not concerned.
        assert ask(proxy, lynxstop={"risk": 0.05}).json()["lynxstop"]["stopped"]


def test_an_alarm_of_another_worker_and_a_reset_are_noticed(
    mock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_risk, "REFRESH_SECONDS", 0.0)
    journal = FileJournal(tmp_path / JOURNAL)
    with watching(mock[0], sections=section(tmp_path, audit=0.0)) as proxy:
        assert "lynxstop" in ask(proxy).json()
        for _ in range(10):
            journal.append(BAD)
        eventually(lambda: "lynxstop" not in ask(proxy).json())
        assert proxy.count("lynxstop_alarm", model="toy", group="", risk="0.05") == 1
        assert proxy.count("lynxstop_live_risk", **LABELS) == 1
        journal.append(Reset())
        eventually(lambda: "lynxstop" in ask(proxy).json())
        # No audit has come since, and no alert goes on.
        assert proxy.count("lynxstop_alarm", model="toy", group="", risk="0.05") == 0
        assert math.isnan(proxy.count("lynxstop_live_risk", **LABELS))


@pytest.mark.parametrize("harm", ["cut", "folder"])
def test_a_state_that_is_unknown_stops_exits_and_no_request(
    mock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    monkeypatch.setattr(live_risk, "REFRESH_SECONDS", 0.0)
    path = tmp_path / JOURNAL
    FileJournal(path).append(Audit("toy", None, 0.05, exited=True, loss=0.0))
    with watching(mock[0], sections=section(tmp_path, audit=0.0)) as proxy:
        assert "lynxstop" in ask(proxy).json()
        path.unlink()
        if harm == "folder":
            path.mkdir()
        eventually(lambda: "lynxstop" not in ask(proxy).json())
        assert proxy.count("lynxstop_monitor_unknown") == 1
        assert proxy.count("lynxstop_exits_withheld_total", cause="unknown") >= 1
        assert "unknown" in notices(proxy)[1]


def test_audits_that_cannot_be_kept_make_the_state_unknown(mock: Any, tmp_path: Path) -> None:
    sections = section(tmp_path)
    with watching(mock[0], sections=sections) as proxy:
        (tmp_path / JOURNAL).mkdir()
        assert ask(proxy).json()["lynxstop"]["stopped"]
        eventually(lambda: proxy.count("lynxstop_monitor_unknown") == 1)
        assert "lynxstop" not in ask(proxy).json()
        # What was not kept is not forgotten.
        (tmp_path / JOURNAL).rmdir()
        eventually(lambda: (ask(proxy), proxy.count("lynxstop_monitor_unknown"))[1] == 0)
        eventually(lambda: (tmp_path / JOURNAL).exists() and KEY in open_state(tmp_path).findings)


def test_a_redis_server_that_goes_away_harms_no_request_and_withholds_exits(
    mock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("redis")
    monkeypatch.setattr(live_risk, "REFRESH_SECONDS", 0.0)
    with redis_server(tmp_path) as server:
        sections = {"monitor": {"redis": server.url, "audit": 1.0, "key": "k"}}
        with watching(mock[0], sections=sections) as proxy:
            assert ask(proxy).json()["lynxstop"]["stopped"]
            eventually(lambda: counted(proxy, 1))
            server.kill()
            eventually(lambda: "lynxstop" not in ask(proxy).json())
            assert "unknown" in notices(proxy)[1]
            # It comes back empty: what was known is lost, and stays so until somebody resets it.
            server.start()
            eventually(lambda: "another one" in notices(proxy)[1] or "cut short" in notices(proxy)[1])
            assert "lynxstop" not in ask(proxy).json()
            RedisJournal(server.url).append(Reset())
            eventually(lambda: "lynxstop" in ask(proxy).json())


def test_an_audit_whose_process_was_killed_is_a_loss(
    mock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_risk, "REFRESH_SECONDS", 0.0)
    FileJournal(tmp_path / JOURNAL).append(Begun("a", *KEY))
    with watching(mock[0], sections=section(tmp_path, audit=0.0, seconds=0.01)) as proxy:
        eventually(lambda: (ask(proxy), audited(proxy))[1] == {"lost": 1})
        eventually(lambda: (ask(proxy), proxy.count("lynxstop_live_risk", **LABELS))[1] == 1)
    assert (finding(tmp_path).audits, finding(tmp_path).lost) == (1, 1.0)


def test_an_audit_that_waits_long_for_its_turn_is_not_given_up(
    mock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*given: Any) -> full_answer.Answered:
        await asyncio.sleep(0.4)
        return full_answer.Answered("\\boxed{1}", 3)

    monkeypatch.setattr("lynxstop.proxy.full_answer.finished_thinking", slow)
    monkeypatch.setattr(live_risk, "GIVEN_UP", 2.0)
    with watching(mock[0], sections=section(tmp_path, seconds=1.0, concurrent=1, on_alarm="warn")) as proxy:
        for number in range(7):
            assert ask(proxy, number).json()["lynxstop"]["stopped"]
        eventually(partial(counted, proxy, 7))
        assert "lost" not in audited(proxy)
    assert finding(tmp_path).audits == 7


def test_an_audit_that_is_cancelled_while_it_waits_takes_no_place() -> None:
    async def run() -> bool:
        auditor = Auditor.__new__(Auditor)
        auditor._places = places = asyncio.Semaphore(1)
        auditor._config = MonitorConfig(seconds=9.0)
        await places.acquire()

        async def wait() -> None:
            async with auditor._place():
                raise AssertionError

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        places.release()
        await asyncio.sleep(0)
        return places.locked()

    assert not asyncio.run(run())


LABELS = {"model": "toy", "group": "", "risk": "0.05", "bound": "mean"}
