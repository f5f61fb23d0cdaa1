"""Problems that are asked unequally often: the promise is kept for what it is about, and only for that."""

from dataclasses import replace

import numpy as np
import pytest

from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.calibration.traces import TraceTable
from tests.support.worlds import exceeds

ALPHA, CONFIDENCE, DELTA, PROBLEMS = 0.1, 0.9, 0.1, 2000


class Traffic:
    """A population in which one problem in five is asked eight times as often, and mostly fails there."""

    def __init__(self):
        rng = np.random.default_rng(11)
        hot = rng.random(PROBLEMS) < 0.2
        self.sizes = np.where(hot, 8, 1)
        self.first = np.cumsum(self.sizes) - self.sizes
        owner = np.repeat(np.arange(PROBLEMS), self.sizes)
        fate = rng.random(PROBLEMS)
        self.scores = (rng.normal(0, 1, PROBLEMS)[owner] + rng.normal(0, 0.3, len(owner))).astype(np.float32)
        bad = np.where(hot, 0.6, 0.2) / (1 + np.exp(1.5 * self.scores[self.first]))
        self.losses = (fate < bad)[owner].astype(float)
        self.owner = owner

    def draw(self, n, seed):
        problems = np.random.default_rng(seed).integers(0, PROBLEMS, n)
        rows = np.concatenate([self.first[p] + np.arange(self.sizes[p]) for p in problems])
        names = np.repeat([f"p{i:05d}" for i in range(n)], self.sizes[problems])
        return TraceTable.from_arrays(
            trace_ids=[f"t{i:06d}" for i in range(len(rows))],
            problem_ids=names,
            lengths=np.ones(len(rows), int),
            scores=self.scores[rows],
            losses=self.losses[rows],
        )

    def risk(self, threshold, unit):
        lost = np.where(self.scores > np.float32(threshold), self.losses, 0.0)
        weights = np.ones(len(lost)) if unit == "request" else 1.0 / self.sizes[self.owner]
        return float(np.average(lost, weights=weights))


TRAFFIC = Traffic()


def violations(unit, about, repeats, *, prepare=lambda table: table, **options):
    wrong = useful = 0
    for seed in range(repeats):
        asked = CalibrationOptions(risks=[ALPHA], confidence=CONFIDENCE, unit=unit, seed=seed, **options)
        certificate = calibrate(prepare(TRAFFIC.draw(400, seed)), asked).certificates[0]
        wrong += TRAFFIC.risk(certificate.threshold, about) > ALPHA
        useful += not certificate.refused
    return wrong, useful


@pytest.mark.parametrize("repeats", [200, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["ltt", "hoeffding_bentkus"])
@pytest.mark.parametrize("unit", ["request", "problem"])
def test_each_unit_keeps_its_promise(unit, method, repeats):
    wrong, useful = violations(unit, unit, repeats, method=method)
    assert exceeds(wrong, repeats, DELTA) > 1e-3
    assert useful > 0.8 * repeats


def test_problems_counted_once_do_not_speak_for_requests():
    wrong, _ = violations("problem", "request", 200)
    assert exceeds(wrong, 200, DELTA) < 1e-6


def test_requests_taken_for_independent_ones_are_caught():
    wrong, _ = violations(
        "request", "request", 200, prepare=lambda table: replace(table, problem_ids=table.trace_ids)
    )
    assert exceeds(wrong, 200, DELTA) < 1e-3


def named_anew(table):
    """Every request under an id of its own, known by its prompt."""
    return replace(table, problem_ids=table.trace_ids, prompts=table.problem_ids)


@pytest.mark.parametrize("repeats", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_prompts_tell_what_ids_hide(repeats):
    # given requests whose ids hide that they repeat; taking them for independent ones is caught above
    wrong, useful = violations("request", "request", repeats, prepare=named_anew)
    assert exceeds(wrong, repeats, DELTA) > 1e-3
    assert useful > 0.8 * repeats


def test_the_sentence_says_what_is_counted():
    table = TRAFFIC.draw(400, 0)
    by_unit = {
        unit: calibrate(table, CalibrationOptions(risks=[0.2], unit=unit)).certificates[0]
        for unit in ("request", "problem")
    }
    assert "of problems drawn like these, each asked once, get" in by_unit["problem"].promise
    assert by_unit["problem"].problems == 400
    drawn = by_unit["request"]
    assert drawn.problems < 200
    assert f"Calibrated on {drawn.problems} problems, drawn from 400 by their number" in drawn.promise
    assert "of requests drawn like these get" in drawn.promise
