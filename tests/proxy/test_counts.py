"""What operators read on /metrics after one request, to the token."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.canned import CHAT, COMPLETIONS, EXIT_IDS, THOUGHT, ask, canned
from tests.support.servers import eventually
from tests.support.watching import Fixed, watching

NAMES = {
    "cues": "lynxstop_cues_total",
    "upstream": "lynxstop_upstream_tokens_total",
    "refilled": "lynxstop_refilled_tokens_total",
    "decided": "lynxstop_decision_seconds_count",
}
PROMPT = 3
REFILLED = PROMPT + 1 + len(EXIT_IDS)


def counted(threshold: float, fault: str = "", **more: Any) -> Mapping[str, float]:
    with canned() as (url, _), watching(url, threshold) as proxy:
        asyncio.run(ask(proxy.url, 1, fault, **more))
        eventually(lambda: proxy.count("lynxstop_requests_active") == 0)
        found = {name: proxy.count(full) for name, full in NAMES.items()}
        found["answered"] = proxy.count("lynxstop_first_chunk_seconds_count", route=CHAT, stream="true")
        mode = more.get("lynxstop", {}).get("mode", "stop")
        found["thinking"] = proxy.count("lynxstop_thinking_tokens_total", mode=mode)
        found["silences"] = sum(
            proxy.count("lynxstop_silence_seconds_count", stopped=stopped) for stopped in ("true", "false")
        )
        for outcome in ("done", "broken"):
            found[outcome] = proxy.count("lynxstop_continuations_total", outcome=outcome)
        found["exits"] = proxy.count("lynxstop_exits_total", reason="score", mode=mode)
        found["saved"] = proxy.count("lynxstop_tokens_saved_estimate_total", mode=mode)
        found["closed"] = proxy.count("lynxstop_upstream_aborts_total", cause="closed")
        return found


def test_a_stopped_request() -> None:
    found = counted(-math.inf)
    assert (found["exits"], found["cues"], found["done"], found["broken"]) == (1, 1, 1, 0)
    # One token and a part of the next; four were read before the stream was closed, and three came after.
    assert (found["thinking"], found["upstream"], found["refilled"]) == (2, 4 + 3, REFILLED)
    assert (found["decided"], found["answered"], found["closed"], found["silences"]) == (1, 1, 1, 1)


def test_a_request_that_is_not_stopped() -> None:
    found = counted(math.inf)
    assert (found["exits"], found["cues"], found["done"], found["broken"]) == (0, 1, 0, 0)
    assert (found["thinking"], found["upstream"], found["refilled"]) == (len(THOUGHT), len(THOUGHT) + 2, 0)
    assert (found["decided"], found["answered"], found["closed"]) == (1, 1, 0)


def test_a_request_in_shadow_counts_its_exit_and_no_continuation() -> None:
    found = counted(-math.inf, lynxstop={"mode": "shadow"})
    assert (found["exits"], found["cues"], found["done"], found["broken"]) == (1, 1, 0, 0)
    assert (found["upstream"], found["refilled"], found["closed"]) == (len(THOUGHT) + 2, 0, 0)


@pytest.mark.parametrize(
    ("more", "saved"),
    [({}, 2), ({"lynxstop": {"mode": "shadow"}}, 2), ({"max_tokens": 2 + len(EXIT_IDS)}, 0)],
)
def test_an_exit_without_room_for_an_answer_saves_nothing(
    monkeypatch: pytest.MonkeyPatch, more: Any, saved: int
) -> None:
    # given a level that saved half of the thinking when it was certified
    monkeypatch.setattr(Fixed, "saved", lambda self, level: 0.5)
    found = counted(-math.inf, **more)
    assert (found["exits"], found["saved"]) == (1, saved)


@pytest.mark.parametrize("place", [0, 100])
def test_a_continuation_that_dies(place: int) -> None:
    found = counted(-math.inf, f"{COMPLETIONS} kill {place}")
    assert (found["exits"], found["done"], found["broken"], found["thinking"]) == (1, 0, 1, 2)


def test_a_stream_that_dies_counts_what_went_through() -> None:
    found = counted(math.inf, f"{CHAT} kill 700")
    assert found["exits"] == found["done"] == found["broken"] == 0
    assert 0 < found["thinking"] == found["upstream"] < len(THOUGHT)
