"""Promises survive looking at growing data and choosing the best of many; without care they do not."""

from dataclasses import replace

import numpy as np
import pytest

from lynxstop.calibration.anytime import betting_p
from lynxstop.calibration.bounds import binomial_p
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.calibration.select import calibrate_best
from lynxstop.calibration.traces import TraceTable
from tests.support.worlds import exceeds, repeated, single

ALPHA, DELTA = 0.1, 0.05
LOOKS = range(100, 1001, 100)


def looked(p_value, repeats):
    """Count streams of requests, whose risk is just above the level, that some look would certify."""
    rng = np.random.default_rng(3)
    streams = (rng.random((repeats, max(LOOKS))) < ALPHA + 1e-4).astype(float)
    return sum(any(p_value(stream[:n]) <= DELTA for n in LOOKS) for stream in streams)


def test_looking_until_satisfied():
    # given looks after every 100 problems, which stop at the first that certifies
    assert exceeds(looked(lambda losses: betting_p(losses, ALPHA), 500), 500, DELTA) > 1e-3
    # then the test for one look breaks its promise
    once = looked(lambda losses: binomial_p(losses.sum(), len(losses), ALPHA), 500)
    assert exceeds(once, 500, DELTA) < 1e-6


def test_the_method_decides_by_that_test():
    # given losses at one threshold, fractions among them
    rng = np.random.default_rng(4)
    for n in (50, 200):
        losses = np.where(rng.random(n) < 0.1, rng.choice([0.25, 0.5, 1.0], n), 0.0)
        table = TraceTable.from_arrays(
            problem_ids=[f"p{i:04d}" for i in range(n)],
            lengths=np.ones(n, int),
            scores=np.ones(n),
            losses=losses,
        )
        for alpha in (0.05, 0.1, 0.2, 0.3):
            made = calibrate(table, CalibrationOptions(risks=[alpha], method="anytime")).certificates[0]
            assert made.refused == (betting_p(losses, alpha) > DELTA)
            if not made.refused:
                assert made.p_value == pytest.approx(betting_p(losses, alpha))
                assert made.bound is not None
                assert betting_p(losses, made.bound) == pytest.approx(DELTA, rel=1e-3)


@pytest.mark.parametrize("repeats", [200, pytest.param(600, marks=pytest.mark.slow)])
def test_anytime_holds_for_means_of_samples(repeats):
    world, wrong, useful = repeated(), 0, 0
    asked = CalibrationOptions(risks=[ALPHA], method="anytime")
    for seed in range(repeats):
        certificate = calibrate(world.draw(300, seed), asked).certificates[0]
        wrong += world.risk(certificate.threshold) > ALPHA
        useful += not certificate.refused
    assert exceeds(wrong, repeats, DELTA) > 1e-3
    assert useful == repeats


FEW, MANY = 8, 24


def candidates(seed, count, n=300):
    """Rules that say nothing, on the same problems: each exits at its own half of them."""
    rng = np.random.default_rng(seed)
    lost = rng.random(n) < 2 * ALPHA + 0.01
    ids = [f"p{i:04d}" for i in range(n)]
    return {
        f"rule {k}": TraceTable.from_arrays(
            problem_ids=ids, lengths=np.ones(n, int), scores=rng.random(n) < 0.5, losses=lost
        )
        for k in range(count)
    }


RISK = ALPHA + 0.005
"""True risk of each candidate at the threshold that exits at its half; at none it exits at all."""


def broken(certificate):
    if certificate.refused:
        return False
    return (RISK if certificate.threshold >= 0 else 2 * RISK) > ALPHA


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("by", ["correction", "split"])
def test_the_best_of_many_keeps_its_promise(by, count):
    asked = CalibrationOptions(risks=[ALPHA])
    wrong = sum(
        broken(calibrate_best(candidates(seed, count), asked, by=by)[1].certificates[0])
        for seed in range(200)
    )
    assert exceeds(wrong, 200, DELTA) > 1e-3


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_the_best_of_many_without_correction_is_caught(count):
    wrong = 0
    for seed in range(200):
        found = [
            calibrate(table, CalibrationOptions(risks=[ALPHA])).certificates[0]
            for table in candidates(seed, count).values()
        ]
        wrong += broken(max(found, key=lambda one: one.exits))
    assert exceeds(wrong, 200, DELTA) < 1e-6


def test_tried_shares_the_error_and_says_so():
    table = single().draw(600, 1)
    alone = calibrate(table, CalibrationOptions(risks=[ALPHA])).certificates[0]
    best = calibrate(table, CalibrationOptions(risks=[ALPHA], tried=24)).certificates[0]
    strict = calibrate(table, CalibrationOptions(risks=[ALPHA], confidence=1 - 0.05 / 24)).certificates[0]
    assert best.threshold == strict.threshold > alone.threshold
    assert "for the best of 24 that were tried" in best.promise
    assert replace(CalibrationOptions(risks=[ALPHA]), tried=3).tried == 3
