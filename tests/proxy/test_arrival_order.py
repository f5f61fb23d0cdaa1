"""Outcomes of audits count in the order of arrival, however long each request takes."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lynxstop.monitor.entries import Audit
from lynxstop.monitor.exchangeability import ExchangeabilityTest
from lynxstop.monitor.monitor import LevelKey
from lynxstop.monitor.sequential import ChangeDetector
from lynxstop.proxy.arrival_order import ArrivalOrder

KEYS = [LevelKey("m", None, 0.05), LevelKey("m", None, 0.1)]


def outcome(key: LevelKey, number: int) -> Audit:
    return Audit(*key, exited=False, loss=0.0, cues=number)


@given(levels=st.lists(st.integers(0, 1), max_size=12), data=st.data())
def test_each_level_is_in_order_and_nothing_is_lost(levels: list[int], data: st.DataObject) -> None:
    order = ArrivalOrder[Audit](10.0, lambda: 0.0)
    given_on: list[Audit] = []
    turns = [order.enter(KEYS[level]) for level in levels]
    counts = [data.draw(st.booleans()) for _ in levels]
    for number in data.draw(st.permutations(range(len(levels)))):
        order.end(turns[number], outcome(KEYS[levels[number]], number) if counts[number] else None)
        given_on += order.released()
    for level, key in enumerate(KEYS):
        found = [one.cues for one in given_on if one.risk == key.risk]
        assert found == [number for number, own in enumerate(levels) if own == level and counts[number]]


def test_outcomes_wait_for_earlier_requests_of_their_level_alone() -> None:
    order = ArrivalOrder[Audit](10.0, lambda: 0.0)
    first, second, other = order.enter(KEYS[0]), order.enter(KEYS[0]), order.enter(KEYS[1])
    order.end(second, outcome(KEYS[0], 2))
    order.end(other, outcome(KEYS[1], 3))
    assert [one.cues for one in order.released()] == [3]
    order.end(first, None)
    assert [one.cues for one in order.released()] == [2]


def test_a_request_that_stays_open_hides_nothing_for_long() -> None:
    now = 0.0
    order = ArrivalOrder[Audit](10.0, lambda: now)
    slow = order.enter(KEYS[0])
    order.end(order.enter(KEYS[0]), outcome(KEYS[0], 2))
    now = 9.0
    assert order.released() == []
    now = 10.0
    assert [one.cues for one in order.released()] == [2]
    order.end(slow, outcome(KEYS[0], 1))
    assert [one.cues for one in order.released()] == [1]
    assert order.released(everything=True) == []


def test_at_the_end_all_that_is_known_is_given_on() -> None:
    order = ArrivalOrder[Audit](10.0, lambda: 0.0)
    order.enter(KEYS[0])
    order.end(order.enter(KEYS[0]), outcome(KEYS[0], 2))
    assert [one.cues for one in order.released(everything=True)] == [2]


def completed(durations: NDArray[np.float64], at_once: int) -> list[int]:
    """Numbers of requests in the order in which they end, so many running at once."""
    running: list[tuple[float, int]] = []
    ended = []
    for number, duration in enumerate(durations.tolist()):
        begun = 0.0
        if len(running) == at_once:
            begun, last = heapq.heappop(running)
            ended.append(last)
        heapq.heappush(running, (begun + duration, number))
    return ended + [heapq.heappop(running)[1] for _ in range(len(running))]


@pytest.mark.parametrize("ordered", [True, False])
def test_slow_losses_raise_no_false_warning(ordered: bool) -> None:
    # given requests of one kind, 128 at once, of which the long ones are lost
    random = np.random.default_rng(1)
    warned = changed = 0
    for _ in range(100):
        durations = random.exponential(size=400)
        lost = (durations > 3.0).astype(float)
        inputs = ExchangeabilityTest.from_reference(random.exponential(size=500))
        change = ChangeDetector(0.0498, 10_000)
        order = ArrivalOrder[Audit](1e9, lambda: 0.0)
        turns = [order.enter(KEYS[0]) for _ in durations]
        known: list[int] = []
        for number in completed(durations, 128):
            order.end(turns[number], outcome(KEYS[0], number))
            known += [one.cues for one in order.released()] if ordered else [number]
        for number in known:
            inputs.add(durations[number], random.random())
            change.add(lost[number])
        warned, changed = warned + inputs.warning, changed + (change.alarms > 0)
    # then only in the order of arrival are false alarms as rare as promised
    if ordered:
        assert warned <= 5
        assert changed <= 10
    else:
        assert warned > 50
        assert changed > 50


def test_a_key_that_nobody_waits_under_is_not_kept() -> None:
    order = ArrivalOrder[Audit](10.0, lambda: 0.0)
    for number in range(3):
        # A client may name any model: it is refused, and nothing of it remains.
        order.end(order.enter(LevelKey(f"any {number}", None, 0.05)), None)
    waiting = order.enter(KEYS[0])
    assert order.released() == []
    assert [*order._turns] == [KEYS[0]]
    order.end(waiting, outcome(KEYS[0], 1))
    assert order.released() == [outcome(KEYS[0], 1)]
