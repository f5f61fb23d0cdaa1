"""E(true risk) <= alpha over calibration sets; rules that break it are caught."""

from dataclasses import replace

import numpy as np
import pytest

from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from tests.support.worlds import WORLDS, mean_exceeds, shifted, single, sticky

ALPHA = 0.1


def risks(method, world, n, repeats, *, truth="risk", **options):
    """True risks of many calibrations."""
    measure = getattr(world, truth)
    return [
        measure(
            calibrate(world.draw(n, seed), CalibrationOptions(risks=[ALPHA], method=method, **options))
            .certificates[0]
            .threshold
        )
        for seed in range(repeats)
    ]


@pytest.mark.parametrize("world", ["sticky", "turning", "ties", "single"])
@pytest.mark.parametrize("method", ["crc", "split"])
def test_mean_risk_holds(method, world):
    # given calibration sets so small that every rounding shows
    assert mean_exceeds(risks(method, WORLDS[world](), 19, 200), ALPHA) < 4


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 9, 10, 60, 400])
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("method", ["crc", "split"])
def test_mean_risk_holds_at_length(method, world, n):
    assert mean_exceeds(risks(method, WORLDS[world](), n, 1500), ALPHA) < 4


def test_split_uses_the_whole_level():
    # given one cue per request, where the bound has no slack but a rank's
    found = risks("split", single(), 99, 400)
    # then the mean is alpha itself, not something safely below
    assert abs(np.mean(found) - ALPHA) < 0.008


def test_clipped_quantile_is_caught():
    # given fewer requests than the level needs, and the largest score where infinity is due
    world, found = single(), []
    for seed in range(600):
        table = world.draw(5, seed)
        bad = table.scores[table.losses > 0]
        found.append(world.risk(bad.max() if len(bad) else -np.inf))
    # then the mean risk is visibly above alpha, and the rule with infinity refuses
    assert mean_exceeds(found, ALPHA) > 4
    assert all(risk == 0 for risk in risks("split", world, 5, 200))


def test_empirical_risk_is_caught():
    # given conformal risk control without its added loss
    world, found = single(), []
    for seed in range(600):
        table = world.draw(20, seed)
        thresholds = np.sort(table.scores)[::-1]
        lost = [(table.losses[table.scores > threshold] > 0).sum() / 20 for threshold in thresholds]
        found.append(world.risk(thresholds[np.flatnonzero(np.array(lost) <= ALPHA)[-1]]))
    assert mean_exceeds(found, ALPHA) > 4


def test_lynx_keeps_its_promise_per_cue_and_not_per_request():
    # given the promise per cue, for cues that are exchangeable
    assert mean_exceeds(risks("lynx", single(), 60, 300, truth="cue_risk"), ALPHA) < 4
    # then requests with many cues break it
    found = risks("lynx", sticky(), 300, 200)
    assert np.mean(found) > ALPHA


@pytest.mark.parametrize("repeats", [200, pytest.param(1500, marks=pytest.mark.slow)])
def test_weights_hold_under_shift_and_their_absence_is_caught(repeats):
    world, weighted, plain = shifted(), [], []
    for seed in range(repeats):
        table, weights = world.draw(300, seed), world.weights[world.rows(300, seed)]
        found = calibrate(
            table, CalibrationOptions(risks=[ALPHA], method="weighted"), weights=weights, weight_limit=2.0
        )
        weighted.append(world.risk(found.certificates[0].threshold, weighted=True))
        found = calibrate(table, CalibrationOptions(risks=[ALPHA], method="crc"))
        plain.append(world.risk(found.certificates[0].threshold, weighted=True))
    assert mean_exceeds(weighted, ALPHA) < 4
    assert np.mean(weighted) > ALPHA / 2
    assert mean_exceeds(plain, ALPHA) > 4


def test_fractions_hold_in_the_mean():
    # given losses between 0 and 1
    world = sticky()
    half = replace(world, table=replace(world.table, losses=world.table.losses * 0.5))
    assert mean_exceeds(risks("crc", half, 40, 200), ALPHA) < 4
