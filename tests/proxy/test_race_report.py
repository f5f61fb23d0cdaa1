"""What a race says of itself: who won, what all of them cost, and that no certificate is about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from lynxstop.errors import UpstreamError
from lynxstop.proxy.race import Race


class Scripted:
    """A sample that ends as given."""

    def __init__(self, seconds: float, finish: str, tokens: int = 3, report: Any = None) -> None:
        self.seconds, self.finish, self.upstream_tokens, self.report = seconds, finish, tokens, report
        self.usage: Any = {"completion_tokens": tokens}
        self.closed = False

    async def bursts(self) -> AsyncGenerator[list[dict[str, Any]]]:
        try:
            await asyncio.sleep(self.seconds)
            if self.finish == "error":
                raise UpstreamError("It died.")
            event: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": self.finish}]}
            yield [event if self.report is None else {**event, "lynxstop": self.report}]
        finally:
            self.closed = True


def run(*samples: Scripted) -> tuple[Race, list[dict[str, Any]]]:
    race = Race(cast(Any, samples))

    async def events() -> list[dict[str, Any]]:
        return [cast(Any, event) async for burst in race.bursts() for event in burst]

    return race, asyncio.run(events())


def test_a_report_with_a_certificate_loses_it() -> None:
    report = {"exit": "score", "certificate": "certificates/risk-0.05.json"}
    race, events = run(Scripted(0, "stop", 5, report), Scripted(9, "stop", 7, report))
    assert events[-1]["lynxstop"]["certificate"] is None
    assert events[-1]["lynxstop"]["exit"] == "score"
    assert events[-1]["lynxstop"]["race"] == {"n": 2, "winner": 0, "tokens": [5, 7], "total_tokens": 12}
    assert race.usage == {"completion_tokens": 5}


def test_a_report_without_one_says_nothing_of_it() -> None:
    _, events = run(Scripted(0, "stop"))
    assert set(events[-1]["lynxstop"]) == {"race"}


@pytest.mark.parametrize(
    ("ends", "winner"),
    [
        (["length", "stop"], 1),
        (["error", "stop"], 1),
        (["length", "error"], 0),
        (["error", "length"], 1),
        (["length", "length"], 0),
    ],
)
def test_the_first_to_end_by_itself_wins_and_limits_and_failures_do_not(ends: list[str], winner: int) -> None:
    samples = [Scripted(place * 0.01, end) for place, end in enumerate(ends)]
    race, events = run(*samples)
    assert race.winner == events[-1]["lynxstop"]["race"]["winner"] == winner
    assert all(sample.closed for sample in samples)


def test_a_race_that_all_have_lost_says_why() -> None:
    samples = [Scripted(0, "error"), Scripted(0.01, "error")]
    with pytest.raises(UpstreamError, match="It died"):
        run(*samples)
    assert all(sample.closed for sample in samples)
