"""Policies refuse what cannot be meant."""

import math

import pytest

from lynxstop.core.policy import NEVER, Level, StopPolicy
from lynxstop.errors import ConfigError

MENU = StopPolicy(exit_ids=(1,), levels=(Level(0.02, 2.0), Level(0.05, 1.0)))


def test_a_level_is_found_by_its_risk():
    assert MENU.level(0.05).threshold == 1.0
    assert MENU.level(0.02 + 1e-12).threshold == 2.0


def test_no_risk_means_no_exit():
    assert MENU.level(None) is NEVER
    assert NEVER.threshold == math.inf


@pytest.mark.parametrize("risk", [0.03, 0.0, math.nan])
def test_an_uncertified_risk_is_refused_with_the_menu(risk):
    with pytest.raises(ConfigError, match=r"0\.02, 0\.05"):
        MENU.level(risk)


@pytest.mark.parametrize(
    "bad",
    [
        {"exit_ids": ()},
        {"exit_ids": (1,), "min_tokens": -1},
        {"exit_ids": (1,), "cooldown": -1},
        {"exit_ids": (1,), "budget": 0},
        {"exit_ids": (1,), "tilt": math.nan},
        {"exit_ids": (1,), "levels": (Level(0.05, 1.0), Level(0.02, 2.0))},
        {"exit_ids": (1,), "levels": (Level(0.05, 1.0), Level(0.05, 2.0))},
    ],
)
def test_a_bad_policy_is_refused(bad):
    with pytest.raises(ConfigError):
        StopPolicy(**bad)


@pytest.mark.parametrize("bad", [(0.0, 1.0), (1.0, 1.0), (math.nan, 1.0), (0.05, math.nan)])
def test_a_bad_level_is_refused(bad):
    with pytest.raises(ConfigError):
        Level(*bad)


def test_a_group_gets_its_own_level_and_an_unknown_one_that_of_all():
    policy = StopPolicy(exit_ids=(1,), levels=(Level(0.05, 1.0), Level(0.05, 3.0, "legal")))

    assert policy.level(0.05, "legal").threshold == 3.0
    assert policy.level(0.05, "unknown").threshold == 1.0
    assert policy.level(0.05).threshold == 1.0


def test_a_level_of_a_group_alone_serves_nobody_else():
    policy = StopPolicy(exit_ids=(1,), levels=(Level(0.05, 3.0, "legal"),))

    with pytest.raises(ConfigError, match="certified levels: none"):
        policy.level(0.05, "other")
