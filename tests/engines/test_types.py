"""What engines give back of a cue."""

import math

import pytest

from lynxstop.core.exits import CueEvent
from lynxstop.core.points import BOUNDARY, CUE
from lynxstop.core.types import Signals


def event(index: int, kind: int) -> CueEvent:
    return CueEvent(index, index, index + 1, math.nan, True, kind)


def test_log_probabilities_are_those_since_the_last_cue() -> None:
    events = [event(1, CUE), event(3, BOUNDARY), event(5, CUE)]
    logprobs = [-9.0, -8.0, -1.0, math.nan, -2.0, -3.0]

    found = [Signals.at(events, number, (0.5, 1.0, 2.0), logprobs) for number in range(3)]

    # a boundary begins nothing anew, and unknown values are left out
    assert [signals.min_logprob for signals in found] == [-9.0, -1.0, -3.0]
    assert [signals.mean_logprob for signals in found] == pytest.approx([-8.5, -1.0, -2.0])


def test_nothing_known_is_no_number() -> None:
    assert math.isnan(Signals.at([event(0, CUE)], 0, (0.5, 1.0, 2.0), [math.nan]).min_logprob)
