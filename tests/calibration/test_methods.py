"""Every method: what all have in common, and the decisions that define it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynxstop.calibration.bounds import binomial_p
from lynxstop.calibration.case import conclude, fixed_sequence
from lynxstop.calibration.grid import start_index
from lynxstop.calibration.lynx import conformal_quantile
from lynxstop.calibration.methods import METHODS
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.plan import plan
from lynxstop.calibration.run import calibrate
from lynxstop.calibration.select import calibrate_best
from lynxstop.calibration.traces import TraceTable
from lynxstop.errors import CalibrationError, ConfigError, DataError
from tests.support.strategies import tables

OWN = [name for name in METHODS if name not in ("holm", "weighted", "selective")]
CONFIDENT = ["ltt", "ucb", "hoeffding_bentkus"]


def threshold(table, risk=0.1, confidence=0.6, weights=None, train_scores=None, **options):
    asked = CalibrationOptions(risks=[risk], confidence=confidence, **options)
    return calibrate(table, asked, weights=weights, train_scores=train_scores).certificates[0].threshold


def many(table, times=12):
    """The same traces as `times` independent problems each."""
    copies = table.select(np.tile(np.arange(table.traces), times))
    ids = np.array([f"c{i:05d}" for i in range(copies.traces)])
    return replace(copies, trace_ids=ids, problem_ids=ids)


@pytest.mark.parametrize("method", OWN)
@given(table=tables(), order=st.randoms(use_true_random=False))
def test_order_of_traces_does_not_matter(method, table, order):
    table, rows = many(table), list(range(table.traces * 12))
    order.shuffle(rows)
    part = table.select(np.array(rows))
    again = TraceTable.from_arrays(
        trace_ids=part.trace_ids,
        problem_ids=part.problem_ids,
        lengths=part.lengths,
        scores=part.scores,
        losses=part.losses,
        tokens=part.tokens,
        full_tokens=part.full_tokens,
    )
    assert again.digest() == table.digest()
    assert threshold(again, method=method) == threshold(table, method=method)


@pytest.mark.parametrize("method", [name for name in OWN if name != "lynx"])
@given(table=tables(), low=st.sampled_from([0.02, 0.1, 0.3]))
def test_more_risk_is_never_stricter(method, table, low):
    table = many(table)
    assert threshold(table, 2 * low, method=method) <= threshold(table, low, method=method)


@pytest.mark.parametrize("method", CONFIDENT)
@given(table=tables(), low=st.sampled_from([0.5, 0.8, 0.95]))
def test_more_confidence_is_never_more_lenient(method, table, low):
    table = many(table)
    strict = threshold(table, 0.2, confidence=low + 0.04, method=method)
    assert strict >= threshold(table, 0.2, confidence=low, method=method)


@pytest.mark.parametrize("method", [name for name in OWN if name != "lynx"])
@given(table=tables(), which=st.integers(0, 10**6))
def test_another_loss_never_loosens(method, table, which):
    table = many(table, 4)
    if not len(table.scores):
        return
    worse = table.losses.copy()
    worse[which % len(worse)] = 1.0
    more = threshold(replace(table, losses=worse), 0.2, method=method)
    assert more >= threshold(table, 0.2, method=method)


def test_fixed_sequence_returns_the_last_accepted():
    # given p-values that pass, pass, fail, pass
    assert fixed_sequence(np.array([0.01, 0.05, 0.2, 0.01]), 0.05) == 1
    assert fixed_sequence(np.array([0.2, 0.01]), 0.05) == -1
    assert fixed_sequence(np.array([0.01, 0.02]), 0.05) == 1


def test_a_sequence_keeps_both_ends_of_runs_in_which_nothing_changes():
    losses = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0])
    thresholds = np.arange(7, 0, -1, dtype=np.float32)
    sequence = conclude(thresholds, losses, 10, losses, 4, lambda losses, n: losses / n).sequence
    assert sequence.thresholds.tolist() == [7.0, 5.0, 4.0, 3.0, 2.0]
    assert sequence.losses.tolist() == [0.0, 0.0, 1.0, 1.0, 2.0]


def test_ltt_walks_the_training_grid(simulated):
    # given thresholds fixed on training traces
    train, table = simulated(200, 1, start="t"), simulated(600, 2)
    certificate = calibrate(table, CalibrationOptions(risks=[0.05]), train_scores=train).certificates[0]
    # then the chosen one is of the grid, its p-value is exact, and the next one failed
    assert certificate.settings.grid is not None
    grid = list(certificate.settings.grid)
    assert certificate.threshold in grid
    assert certificate.p_value == binomial_p(certificate.losses, 600, 0.05) <= 0.05
    assert certificate.tested.statistic[-1] > 0.05
    assert certificate.tested.thresholds[-1] == grid[grid.index(certificate.threshold) + 1]


def test_smallest_sample_that_can_certify():
    # given no loss at all: 58 problems are one too few for 5% at 95% confidence
    def clean(n):
        return TraceTable.from_arrays(
            problem_ids=[f"p{i}" for i in range(n)],
            lengths=np.ones(n, int),
            scores=np.zeros(n),
            losses=np.zeros(n),
        )

    few = calibrate(clean(58), CalibrationOptions(risks=[0.05]))
    assert few.certificates[0].threshold == np.inf
    assert few.certificates[0].missing == 1
    with pytest.raises(CalibrationError, match=r"think to the end.*1 more"):
        few.require()
    enough = calibrate(clean(59), CalibrationOptions(risks=[0.05])).certificates[0]
    assert (enough.threshold < 0, enough.exits) == (True, 59)


def test_lynx_exits_only_where_the_set_is_exactly_right():
    # given right cues with scores from 1 to 20, and wrong ones far below them
    table = TraceTable.from_arrays(
        problem_ids=[f"p{i:02d}" for i in range(40)],
        lengths=np.ones(40, int),
        scores=np.array([*range(1, 21), *[-50.0] * 20], np.float32),
        losses=np.repeat([0.0, 1.0], 20),
    )
    # then the floor of the right ones decides: at 10%, two of 21 places may lie below it
    assert threshold(table, 0.1, method="lynx") == np.nextafter(np.float32(2), np.float32(-np.inf))
    # and the estimate counts one loss more, where it exits at all
    bounds = [
        calibrate(table, CalibrationOptions(risks=[risk], method="lynx")).certificates[0]
        for risk in (0.1, 0.01)
    ]
    assert [one.bound for one in bounds] == [(bounds[0].losses + 1) / (bounds[0].n + 1), None]
    assert bounds[1].threshold == np.inf


def test_choosing_by_a_split_keeps_the_options(simulated):
    tables = {"good": simulated(600, 1), "bad": simulated(600, 1)}
    tables["bad"] = replace(tables["bad"], losses=np.ones_like(tables["bad"].losses))
    asked = CalibrationOptions(risks=[0.1, 0.2], confidence=0.9)
    best, made = calibrate_best(tables, asked, by="split")
    assert best == "good"
    assert [(one.risk, one.confidence) for one in made.certificates] == [(0.1, 0.9), (0.2, 0.9)]
    assert made.certificates[0].problems == 300


def test_choosing_by_correction_takes_what_saves_most_at_its_share_of_the_error(simulated):
    good = simulated(600, 1)
    tables = {"bad": replace(good, losses=np.ones_like(good.losses)), "good": good, "same": good}
    asked = CalibrationOptions(risks=[0.1, 0.2], confidence=0.9, tried=2)
    best, made = calibrate_best(tables, asked)
    assert best == "good"
    alone = calibrate(good, replace(asked, tried=6))
    assert [one.delta for one in made.certificates] == [one.delta for one in alone.certificates]
    assert [one.threshold for one in made.certificates] == [one.threshold for one in alone.certificates]
    assert made.certificates[0].problems == 600


def test_levels_share_the_error(simulated):
    table = simulated(500)
    alone = calibrate(table, CalibrationOptions(risks=[0.05])).certificates[0]
    together = calibrate(table, CalibrationOptions(risks=[0.05, 0.1])).certificates
    each = calibrate(table, CalibrationOptions(risks=[0.05, 0.1], together="none")).certificates
    # the stricter level gets as much more of the error as it is stricter
    assert [certificate.delta for certificate in together] == pytest.approx([0.1 / 3, 0.05 / 3])
    assert together[0].threshold >= alone.threshold == each[0].threshold
    assert "together with 1 other" in together[0].promise


@pytest.mark.parametrize(("together", "tests"), [("none", 1), ("levels", 2), ("all", 6)])
def test_the_error_is_shared_by_what_holds_together(simulated, together, tests):
    # given two levels, of two groups and of all
    table = simulated(300, groups=True)
    made = calibrate(table, CalibrationOptions(risks=[0.1, 0.2], by="route", together=together)).certificates
    expected = [0.05] * 6 if together == "none" else [0.1 / 3 * 2 / tests, 0.05 / 3 * 2 / tests] * 3
    assert [certificate.delta for certificate in made] == pytest.approx(expected)
    assert sum(expected) == pytest.approx({"none": 0.3, "levels": 0.15, "all": 0.05}[together])
    # and every promise says whether it holds together with those of the other groups
    assert {"not together with those of other groups" in one.promise for one in made} == {together != "all"}


def test_split_is_the_conformal_quantile(simulated):
    # given the highest score over bad cues of every trace
    table = simulated(400)
    worst = np.full(400, -np.inf, np.float32)
    np.maximum.at(worst, table.owners[table.losses > 0], table.scores[table.losses > 0])
    for risk in (0.05, 0.1, 0.2):
        assert threshold(table, risk, method="split") == conformal_quantile(worst, risk)


@pytest.mark.parametrize("method", ["crc", "split"])
def test_the_bound_of_risk_control_is_the_corrected_risk(simulated, method):
    options = CalibrationOptions(risks=(0.1,), method=method)
    certificate = calibrate(simulated(300), options).certificates[0]
    assert certificate.bound == pytest.approx((certificate.losses + 1) / 301)
    assert certificate.bound is not None
    assert certificate.bound <= 0.1


@pytest.mark.parametrize(
    ("n", "alpha", "rank"), [(19, 0.05, 19), (18, 0.05, None), (99, 0.29, 71), (9, 0.1, 9)]
)
def test_quantile_beyond_n_is_infinite(n, alpha, rank):
    scores = np.arange(1, n + 1, dtype=np.float32)
    assert conformal_quantile(scores, alpha) == (np.inf if rank is None else rank)


@pytest.mark.filterwarnings("ignore")
def test_lynx_is_mapie_of_each_class(simulated):
    # given probabilities as scores, and MAPIE's split conformal calibrated on one class at a time
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Precomputed(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        classes_ = np.array([0, 1])
        n_features_in_ = 1

        def fit(self, X, y=None):
            return self

        def predict_proba(self, X):
            return np.c_[1 - np.asarray(X, float)[:, 0], np.asarray(X, float)[:, 0]]

        def predict(self, X):
            return (np.asarray(X)[:, 0] >= 0.5).astype(int)

        def __sklearn_is_fitted__(self):
            return True

    table = simulated(120)
    p = (1 / (1 + np.exp(-table.scores.astype(float)))).astype(np.float32)
    right = (table.losses == 0).astype(int)
    inside = {}
    for label in (0, 1):
        conformal = SplitConformalClassifier(Precomputed(), confidence_level=0.9, prefit=True)
        conformal.conformalize(p[right == label][:, None].astype(float), right[right == label])
        inside[label] = conformal.predict_set(p[:, None].astype(float))[1][:, label, 0]
    # then cues exit exactly where the set is {right}
    found = threshold(replace(table, scores=p), 0.1, method="lynx")
    assert np.array_equal(p > np.float32(found), inside[1] & ~inside[0])
    assert 0 < (p > found).sum() < len(p)


@pytest.mark.filterwarnings("ignore")
def test_holm_by_hand(simulated):
    # given Holm's procedure on the exact p-values of the same grid
    table, train = simulated(300, 3), simulated(100, 4, start="t")
    certificate = calibrate(
        table, CalibrationOptions(risks=[0.1], method="holm"), train_scores=train
    ).certificates[0]
    p = np.array(certificate.tested.statistic)
    order, valid = np.argsort(p, kind="stable"), np.zeros(len(p), bool)
    for step, index in enumerate(order):
        if p[index] > 0.05 / (len(p) - step):
            break
        valid[index] = True
    # then MAPIE's controller accepts the same thresholds
    assert certificate.threshold == min(np.array(certificate.tested.thresholds)[valid])
    assert 0 < valid.sum() < len(p)


def test_selective_starts_where_exits_are_expected(simulated):
    train, table = simulated(300, 5, start="t"), simulated(800, 6)
    certificate = calibrate(
        table, CalibrationOptions(risks=[0.2], loss="wrong|exit"), train_scores=train
    ).certificates[0]
    assert certificate.method == "selective"
    assert certificate.settings.start is not None
    assert certificate.settings.start > 0
    assert certificate.n == certificate.exits >= 30
    assert "that are stopped early" in certificate.promise
    assert f"Observed {certificate.losses:g}/{certificate.exits:g}" in certificate.promise


def test_a_selective_refusal_counts_that_only_some_requests_exit():
    # given requests of which one in four exits, without any loss, but too few for the level
    def quarter(start):
        count = np.arange(160)
        return TraceTable.from_arrays(
            problem_ids=[f"{start}{i:03}" for i in count], lengths=np.ones(160, int),
            scores=np.where(count % 4, -5.0, 5.0), losses=np.where(count % 4, 1.0, 0.0),
        )  # fmt: skip

    asked = CalibrationOptions(risks=[0.05], loss="wrong|exit")
    refused = calibrate(quarter("p"), asked, train_scores=quarter("t")).certificates[0]
    # then four requests bring one exit
    assert refused.refused
    assert refused.missing == plan(0.05, 0.95, power=0.5, exit_share=1 / 4).problems - 160


def test_a_selective_sequence_starts_at_three_times_the_exits_that_no_loss_needs():
    # given training traces of which k exit at the k-th threshold
    count = np.arange(100)
    train = TraceTable.from_arrays(
        problem_ids=[f"t{i:03}" for i in count],
        lengths=np.ones(100, int), scores=count, losses=np.zeros(100),
    )  # fmt: skip
    grid = count[::-1].astype(np.float32)
    # then 1,000 requests are expected to bring 3 * 58.4 exits at the 18th
    assert np.log(0.05) / np.log(0.95) == pytest.approx(58.4, abs=0.01)
    assert start_index(train, grid, 1000, 0.05, 0.05) == 18
    assert start_index(train, grid, 100, 0.05, 0.05) == 99


def test_few_effective_requests_refuse(simulated):
    # given weights that leave a handful of requests
    table = simulated(400)
    weights = np.full(400, 1e-3)
    weights[:20] = 1.0
    certificate = calibrate(
        table, CalibrationOptions(risks=[0.3], method="weighted"), weights=weights
    ).certificates[0]
    assert certificate.refused
    assert certificate.effective_size == pytest.approx(20, rel=0.1)
    assert certificate.missing is not None
    assert certificate.missing > 1000


def test_samples_do_not_make_weights_more_effective(simulated):
    # given 60 problems with five samples each
    table = simulated(300)
    problems = np.repeat([f"q{i:02d}" for i in range(60)], 5)
    table = replace(table, problem_ids=problems)
    made = calibrate(
        table, CalibrationOptions(risks=[0.3], method="weighted"), weights=np.ones(300)
    ).certificates[0]
    assert made.effective_size == pytest.approx(60)
    with pytest.raises(DataError, match="different weights"):
        calibrate(table, CalibrationOptions(risks=[0.3], method="weighted"), weights=np.linspace(1, 2, 300))


def test_unit_weights_are_plain_risk_control(simulated):
    table = simulated(400)
    plain = threshold(table, method="crc")
    assert threshold(table, method="weighted", weights=np.ones(400)) == plain


def test_weights_are_estimated_from_prompts():
    # given serving prompts of which the second half of calibration is typical
    from lynxstop.calibration.weighted import estimate_weights

    rng = np.random.default_rng(0)
    calibration = np.concatenate([rng.normal(-1, 1, (300, 1)), rng.normal(1, 1, (300, 1))])
    weights = estimate_weights(calibration, rng.normal(1, 1, (600, 1)))
    assert weights.mean() == pytest.approx(1)
    assert weights[300:].mean() > 2 * weights[:300].mean()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"risks": [0.0]}, ConfigError),
        ({"risks": [1.0]}, ConfigError),
        ({"risks": [float("nan")]}, ConfigError),
        ({"risks": []}, ConfigError),
        ({"risks": [0.1, 0.1]}, ConfigError),
        ({"confidence": 1.0}, ConfigError),
        ({"confidence": 0.0}, ConfigError),
        ({"confidence": float("nan")}, ConfigError),
        ({"method": "magic"}, ConfigError),
        ({"method": "holm"}, ConfigError),
        ({"method": "selective"}, ConfigError),
        ({"loss": "wrong|exit"}, ConfigError),
        ({"method": "weighted"}, ConfigError),
        ({"unknown_loss": 1.5}, ConfigError),
        ({"samples": "some"}, ConfigError),
        ({"together": "some"}, ConfigError),
        ({"seed": -1}, ConfigError),
        ({"weights": np.ones(50)}, ConfigError),
        ({"method": "weighted", "weights": np.ones(3)}, DataError),
        ({"method": "weighted", "weights": np.full(50, np.nan)}, DataError),
        ({"method": "weighted", "weights": np.ones(50), "weight_limit": 0.5}, DataError),
        ({"by": "route"}, DataError),
        ({"train_problems": ["p00003"]}, DataError),
        ({"train_scores": np.zeros(0, np.float32)}, DataError),
        ({"train_scores": np.array([np.nan], np.float32)}, DataError),
    ],
)
def test_bad_options_are_refused(simulated, options, error):
    data = ("weights", "weight_limit", "train_problems", "train_scores")
    given = {name: value for name, value in options.items() if name in data}
    chosen = {name: value for name, value in options.items() if name not in data}
    with pytest.raises(error):
        calibrate(simulated(50), CalibrationOptions(**{"risks": [0.1], **chosen}), **given)


def test_training_problems_are_refused(simulated):
    with pytest.raises(DataError, match="in training and in calibration"):
        calibrate(simulated(50), CalibrationOptions(risks=[0.1]), train_scores=simulated(60, 1))


@pytest.mark.parametrize("method", ["ltt", "ucb", "split", "lynx"])
def test_fractions_need_a_method_for_them(simulated, method):
    table = simulated(100)
    with pytest.raises(CalibrationError, match="hoeffding_bentkus"):
        threshold(replace(table, losses=table.losses / 2), method=method)
    assert np.isfinite(threshold(replace(table, losses=table.losses / 2), method="hoeffding_bentkus"))


def test_unknown_answers_count_as_losses(simulated):
    table = simulated(400)
    unknown = replace(table, losses=np.where(table.losses > 0, np.nan, 0.0))
    certificate = calibrate(unknown, CalibrationOptions(risks=[0.1])).certificates[0]
    assert certificate.threshold == threshold(table, confidence=0.95)
    assert certificate.unknown == (table.losses > 0).sum()
    assert calibrate(unknown, CalibrationOptions(risks=[0.1], unknown_loss=0.0)).certificates[0].losses == 0
