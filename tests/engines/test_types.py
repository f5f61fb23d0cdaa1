"""What engines give back of a cue."""

import math

import pytest

from lynxstop.core.exits import CueEvent
from lynxstop.core.points import BOUNDARY, CUE
from lynxstop.core.types import Sampling, Signals
from lynxstop.errors import ConfigError


def event(index: int, kind: int) -> CueEvent:
    return CueEvent(index, index, index + 1, math.nan, True, kind)


def test_log_probabilities_are_those_since_the_last_cue() -> None:
    events = [event(1, CUE), event(3, BOUNDARY), event(5, CUE)]
    logprobs = [-9.0, -8.0, -1.0, math.nan, -2.0, -3.0]

    found = [Signals.at(events, number, (0.5, 1.0, 2.0), logprobs) for number in range(3)]

    # a boundary begins nothing anew, and unknown values are left out
    assert [signals.min_logprob for signals in found] == [-9.0, -1.0, -3.0]
    assert [signals.mean_logprob for signals in found] == pytest.approx([-8.5, -1.0, -2.0])


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"answer_tokens": 0}])
def test_every_limit_of_tokens_is_at_least_one(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Sampling(**{"max_tokens": 8, "answer_tokens": 8, **wrong})


def test_nothing_known_is_no_number() -> None:
    assert math.isnan(Signals.at([event(0, CUE)], 0, (0.5, 1.0, 2.0), [math.nan]).min_logprob)
