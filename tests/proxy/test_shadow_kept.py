"""Which shadow requests are recorded: those whose every token was read, and no others."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest

from lynxstop.proxy.shadow import ShadowRecorder
from tests.support.canned import CHAT, Odd, chat
from tests.support.servers import eventually, serving
from tests.support.watching import watching

BODY: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "?"}]}
BARE = {"id": "c00001", "choices": [{"index": 0, "delta": {"reasoning": " and"}}]}


@pytest.mark.parametrize(
    ("more", "event", "outcome"),
    [
        ({"lynxstop": {"mode": "shadow"}}, None, ["recorded"]),
        ({"lynxstop": {"mode": "shadow"}}, BARE, ["unread"]),
        ({"lynxstop": {"mode": "shadow", "race": 2}}, None, []),
        ({}, None, []),
        ({"lynxstop": {"mode": "shadow", "risk": "off"}}, None, []),
    ],
)
def test_what_is_recorded(tmp_path: Path, more: dict[str, Any], event: Any, outcome: list[str]) -> None:
    events = chat("00001")
    if event is not None:
        events.insert(2, event)
    outcomes: list[str] = []
    options = {"redact": True, "answer_tokens": 4, "on_done": outcomes.append}
    with (
        serving(Odd(*map(orjson.dumps, events))) as url,
        watching(url, math.inf, record=(tmp_path, options)) as proxy,
    ):
        for _ in range(2):
            assert httpx.post(proxy.url + CHAT, json={**BODY, **more}, timeout=30).status_code == 200
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
        # What is to be recorded has been taken by now, and every outcome is reported.
        eventually(lambda: len(outcomes) >= 2 * len(outcome))
        time.sleep(0.2)
    assert outcomes == outcome * 2


def test_whether_a_request_is_recorded_is_decided_at_its_arrival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given room for two
    monkeypatch.setattr("lynxstop.proxy.shadow.WAITING", 2)
    outcomes: list[str] = []
    recorder = ShadowRecorder(tmp_path, redact=True, answer_tokens=4, on_done=outcomes.append)
    first, second, third = (recorder.enter() for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is None
    # when the first does not come to its end, another one has room; what was left out is told
    broken: Any = SimpleNamespace(blind=None, final_report={})
    recorder.take(broken, first)
    assert recorder.enter() is not None
    assert outcomes == ["dropped", "unfinished"]
    assert (tmp_path / "left_out.txt").read_text() == "unfinished\n"


def test_rows_are_in_the_order_of_arrival(tmp_path: Path) -> None:
    # given a slow request, and a quick one after it
    options = {"redact": True, "answer_tokens": 4, "on_done": print}
    slow = {**BODY, "messages": [{"role": "user", "content": "slow"}]}

    async def run() -> None:
        recorder = ShadowRecorder(tmp_path, **options)  # type: ignore[arg-type]
        turns = [recorder.enter(), recorder.enter()]

        async def rows(chat: Any) -> list[tuple[Any, ...]]:
            await asyncio.sleep(0.2 if chat.client_request.body is slow else 0.0)
            return [(chat.client_request.body["messages"][0]["content"], *[""] * 8)]

        recorder._rows = rows  # type: ignore[method-assign]
        for body, turn in zip((slow, BODY), turns, strict=True):
            assert turn is not None
            asked = SimpleNamespace(body=body)
            one: Any = SimpleNamespace(client_request=asked, blind=None, final_report={"exit": None})
            recorder.take(one, turn)
        await asyncio.sleep(0.1)
        assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1
        await recorder.drain()

    asyncio.run(run())
    lines = (tmp_path / "scores.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["slow", "?"]


def test_a_request_that_does_not_come_to_its_end_is_told_as_left_out(tmp_path: Path) -> None:
    outcomes: list[str] = []
    options = {"redact": True, "answer_tokens": 4, "on_done": outcomes.append}
    events = map(orjson.dumps, [*chat("00001")[:3], {"error": {"message": "Out of memory."}}])
    body = {**BODY, "stream": True, "lynxstop": {"mode": "shadow"}}
    with (
        serving(Odd(*events)) as url,
        watching(url, math.inf, record=(tmp_path, options)) as proxy,
    ):
        httpx.post(proxy.url + CHAT, json=body, timeout=30)
        eventually(lambda: outcomes)
    assert outcomes == ["unfinished"]
    assert (tmp_path / "left_out.txt").read_text() == "unfinished\n"


def test_cues_that_may_not_stop_give_no_row_of_their_own(tmp_path: Path) -> None:
    outcomes: list[Any] = []
    options = {"redact": True, "answer_tokens": 4, "on_done": outcomes.append}
    events = map(orjson.dumps, chat("00001"))
    body = {**BODY, "lynxstop": {"mode": "shadow"}}
    with (
        serving(Odd(*events)) as url,
        watching(url, math.inf, record=(tmp_path, options), min_tokens=50) as proxy,
    ):
        assert httpx.post(proxy.url + CHAT, json=body, timeout=30).status_code == 200
        eventually(lambda: outcomes)
    assert outcomes == ["recorded"]
    [_, row] = (tmp_path / "scores.csv").read_text().splitlines()
    assert row.split(",")[2:] == ["", "", "", "", "5", "toy", ""]
