"""Sample sizes."""

import pytest
from scipy.stats import binom

from lynxstop.calibration.plan import plan, smallest_size
from lynxstop.errors import ConfigError


@pytest.mark.parametrize(("risk", "floor"), [(0.01, 299), (0.02, 149), (0.03, 99), (0.05, 59)])
def test_no_loss_needs_the_known_numbers(risk, floor):
    made = plan(risk, 0.95)
    assert (made.problems, made.floor, made.allowed, made.power) == (floor, floor, 0, 1)


@pytest.mark.parametrize(("risk", "losses"), [(0.01, 4), (0.02, 12), (0.03, 20), (0.05, 38)])
def test_a_thousand_problems_allow_the_known_losses(risk, losses):
    assert smallest_size(losses, risk, 0.05) <= 1000 < smallest_size(losses + 1, risk, 0.05)


@pytest.mark.parametrize(("risk", "expected"), [(0.02, 0.01), (0.05, 0.03), (0.1, 0.09), (0.05, 0.001)])
def test_a_plan_has_the_power_it_promises(risk, expected):
    # given a plan for a threshold with a loss below the risk
    made = plan(risk, 0.9, expected_loss=expected, power=0.8)
    # then the allowed losses certify it, one more would not, and they are not exceeded in 80% of collections
    assert (
        binom.cdf(made.allowed, made.problems, risk) <= 0.1 < binom.cdf(made.allowed + 1, made.problems, risk)
    )
    assert binom.cdf(made.allowed, made.problems, expected) == pytest.approx(made.power)
    assert made.power >= 0.8
    # and with one loss fewer allowed they would be
    fewer = smallest_size(made.allowed - 1, risk, 0.1) if made.allowed else made.floor
    assert made.allowed == 0 or binom.cdf(made.allowed - 1, fewer, expected) < 0.8


def test_more_of_anything_needs_more_problems():
    base = plan(0.05, 0.9, expected_loss=0.02).problems
    assert plan(0.04, 0.9, expected_loss=0.02).problems > base
    assert plan(0.05, 0.95, expected_loss=0.02).problems > base
    assert plan(0.05, 0.9, expected_loss=0.03).problems > base
    assert plan(0.05, 0.9, expected_loss=0.02, power=0.95).problems > base
    assert plan(0.05, 0.9, expected_loss=0.02, exit_share=0.5).problems == 2 * base


@pytest.mark.parametrize(
    ("risk", "options"),
    [
        (0.0, {}),
        (1.0, {}),
        (float("nan"), {}),
        (0.05, {"confidence": 1.0}),
        (0.05, {"power": 1.0}),
        (0.05, {"expected_loss": 0.05}),
        (0.05, {"expected_loss": -0.1}),
        (0.05, {"exit_share": 0.0}),
        (0.01, {"expected_loss": 0.00999999999}),
    ],
)
def test_bad_or_hopeless_plans_are_refused(risk, options):
    with pytest.raises(ConfigError):
        plan(risk, **options)
