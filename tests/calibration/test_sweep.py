"""The sweep over all thresholds equals the stop rule, trace by trace."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.calibration import anytime
from lynxstop.calibration.case import Case
from lynxstop.calibration.units import as_units
from tests.support.first_exit import first_exit
from tests.support.strategies import tables

THRESHOLDS = np.array([9.0, 3.0, 2.0, 1.0, 0.5, 0.3, 0.1, 0.0, -0.5, -1.0, -2.0, -2.5, -9.0], np.float32)


def by_the_rule(table, threshold):
    """Loss, exit and saved tokens of each trace."""
    rows = []
    for i in range(table.traces):
        part = slice(table.offsets[i], table.offsets[i + 1])
        scores = table.scores[part]
        hit = first_exit(scores, np.ones(len(scores), bool), float(threshold))
        saved = 0 if hit < 0 else table.full_tokens[i] - table.tokens[part][hit]
        rows.append((0.0 if hit < 0 else table.losses[part][hit], hit >= 0, saved))
    return np.array(rows, dtype=float)


def case_of(table):
    units = as_units(table, "one", 0)
    return Case(units, units.table.charged(1.0))


@given(tables())
def test_sums_equal_the_stop_rule(table):
    # given any traces, when all thresholds are swept at once
    curve = case_of(table).at(THRESHOLDS)
    # then every sum is what the stop rule gives one by one
    for j, threshold in enumerate(THRESHOLDS):
        loss, exits, saved = by_the_rule(table, threshold).sum(axis=0)
        assert (curve.losses[j], curve.exits[j], curve.saved[j]) == (loss, exits, saved)


@given(tables(losses=(0.0, 0.25, 1.0)))
def test_envelope_is_the_worst_of_all_stricter_thresholds(table):
    curve = case_of(table).at(THRESHOLDS)
    worst = np.zeros(table.traces)
    for j, threshold in enumerate(THRESHOLDS):
        worst = np.maximum(worst, by_the_rule(table, threshold)[:, 0])
        assert curve.envelope[j] >= worst.sum()
    # and at the thresholds where anything changes it is exactly that
    fine = case_of(table).fine
    worst = np.zeros(table.traces)
    for j, threshold in enumerate(fine.thresholds):
        worst = np.maximum(worst, by_the_rule(table, threshold)[:, 0])
        assert fine.envelope[j] == worst.sum()


@given(tables(losses=(0.0, 0.25, 1.0)))
def test_a_walk_of_bets_has_the_p_value_of_each_threshold_by_itself(table):
    case = case_of(table)
    tested = anytime.certify(case, 0.4, 0.6).sequence
    for threshold, p_value in zip(tested.thresholds, tested.statistic, strict=True):
        assert p_value == pytest.approx(anytime.betting_p(by_the_rule(table, threshold)[:, 0], 0.4))
        if p_value > 0.6:
            break


@given(tables(), st.floats(-4, 4, width=32))
def test_breakpoints_stand_for_every_float32(table, threshold):
    # given any threshold at all
    case = case_of(table)
    here = case.at(np.array([threshold], np.float32))
    # then a breakpoint that is not below it has the same sums
    fine = case.fine
    stand_in = np.flatnonzero(fine.thresholds <= np.float32(threshold))
    index = stand_in[0] if len(stand_in) else len(fine.thresholds) - 1
    assert (fine.losses[index], fine.exits[index]) == (here.losses[0], here.exits[0])


def test_sums_do_not_depend_on_the_order_of_traces(simulated):
    # given losses that are no sums of powers of two
    table = simulated(300)
    thirds = replace(table, losses=table.losses / 3 + 0.1)
    shuffled = thirds.select(np.random.default_rng(1).permutation(300))
    assert np.array_equal(case_of(thirds).fine.losses, case_of(shuffled).fine.losses)
