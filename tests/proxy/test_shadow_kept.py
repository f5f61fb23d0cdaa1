"""Which shadow requests are recorded: those whose every token was read, and no others."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.support.canned import CHAT, Odd, chat
from tests.support.servers import eventually, serving
from tests.support.watching import watching

BODY: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "?"}]}
BARE = {"id": "c00001", "choices": [{"index": 0, "delta": {"reasoning": " and"}}]}


@pytest.mark.parametrize(
    ("more", "event", "count"),
    [
        ({"lynxstop": {"mode": "shadow"}}, None, 1),
        ({"lynxstop": {"mode": "shadow"}}, BARE, 0),
        ({"lynxstop": {"mode": "shadow", "race": 2}}, None, 0),
        ({}, None, 0),
        ({"lynxstop": {"mode": "shadow", "risk": "off"}}, None, 0),
    ],
)
def test_what_is_recorded(tmp_path: Path, more: dict[str, Any], event: Any, count: int) -> None:
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
        eventually(lambda: len(outcomes) >= 2 * count)
        time.sleep(0.2)
    assert len(outcomes) == 2 * count


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
