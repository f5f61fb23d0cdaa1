"""Training: the search, its honesty about problems, and the rivals."""

import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from lynxstop.artifacts.card import RIVALS
from lynxstop.errors import ConfigError, DataError
from lynxstop.probes.evidence import platt
from lynxstop.probes.rivals import agreement_runs
from lynxstop.probes.search import split
from lynxstop.probes.train import Candidate, default_layer_sets, simplest, train
from tests.support.made_data import LAYERS, data_set


def test_the_informative_layer_wins_and_the_probe_scores_it():
    # given cues whose truth stands in layer 2
    data = data_set()
    trained = train(data, penalties=(1e-2, 1.0))
    # then the search finds it, the probe reads it, and all tried are reported
    assert 2 in trained.chosen.layers
    assert trained.probe.layers == trained.chosen.layers
    assert len(trained.table) == 2 * len(default_layer_sets(LAYERS)) == 14
    best = max(trained.table, key=lambda line: line.auc)
    assert best.auc - best.spread <= trained.chosen.auc <= best.auc
    assert best.auc > 0.9
    truth = np.array(data.cues()["agrees"].to_pylist())
    assert roc_auc_score(truth, trained.probe.score(data.features(trained.chosen.layers))) > 0.9
    # and the cheap signals stand beside it, whatever their sign
    assert set(trained.rivals) == set(RIVALS)
    assert trained.rivals["entropy"] > 0.9
    assert trained.rivals["position"] < 0.65
    assert json.loads(json.dumps(trained.report()))["auc"] == trained.auc


def test_out_of_fold_scores_come_from_probes_that_never_saw_the_problem():
    # given features that tell problems apart and nothing else: a split by cue would find AUC 1
    data = data_set(leak=True, hidden=20)
    trained = train(data, layer_sets=[LAYERS], penalties=(1.0,))
    truth = np.array(data.cues()["agrees"].to_pylist())
    # then the out-of-fold scores are worth nothing, while the final probe has learnt the problems by heart
    assert trained.auc == pytest.approx(roc_auc_score(truth, trained.scores))
    assert trained.auc < 0.65
    assert roc_auc_score(truth, trained.probe.score(data.features())) > 0.8
    assert trained.scores.dtype == np.float32


def test_unknown_targets_are_left_out():
    right = [None, True, False, True] * 60
    trained = train(data_set(right=right), target="right", layer_sets=[(2,)], penalties=(1.0,))
    assert trained.cues == 180
    assert np.isnan(trained.scores[::4]).all()
    assert np.isfinite(trained.scores[1::4]).all()
    assert trained.rate == pytest.approx(2 / 3)


def test_equal_seeds_give_equal_probes():
    first, second = (train(data_set(), kind="mlp", layer_sets=[(2,)], penalties=(1.0,)) for _ in range(2))
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.report() == second.report()


@pytest.mark.parametrize(
    ("data", "options", "error"),
    [
        (data_set(problems=4), {}, DataError),
        (data_set(agrees=np.ones(240, bool)), {}, DataError),
        (data_set(right=pa.array([None] * 240, pa.bool_())), {"target": "right"}, DataError),
        (data_set(), {"layer_sets": [(3,)]}, DataError),
        (data_set(), {"target": "help"}, ConfigError),
        (data_set(), {"layer_sets": []}, ConfigError),
        (data_set(), {"folds": 1}, ConfigError),
    ],
)
def test_unusable_data_and_options_are_refused(data, options, error):
    with pytest.raises(error):
        train(data, **options)


def test_features_that_are_not_finite_are_counted():
    data = data_set()
    next(iter(data._content.features()))[3, 4] = np.inf
    with pytest.raises(DataError, match="1 cues"):
        train(data)


def test_layer_sets_start_with_the_last_and_repeat_none():
    assert default_layer_sets((4, 1, 2)) == [(4,), (2,), (1,), (1, 2), (1, 4), (2, 4), (1, 2, 4)]
    assert default_layer_sets((3,)) == [(3,)]
    assert default_layer_sets((1, 2)) == [(2,), (1,), (1, 2)]


def test_runs_of_equal_answers_end_with_the_trace_and_with_a_missing_answer():
    traces = ["a", "a", "a", "b", "b", "b", "b"]
    answers = ["1", "1", "2", "2", "", "2", "2"]
    assert agreement_runs(traces, answers).tolist() == [1, 2, 1, 1, 0, 1, 2]


def test_platt_recovers_the_curve_that_made_the_labels():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=20_000).astype(np.float32)
    truth = rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * scores + 1.0)))
    assert platt(scores, truth) == pytest.approx((0.5, 1.0), abs=0.07)


def test_a_tie_goes_to_fewer_layers():
    # given a pair ahead of two single layers by less than one standard error, and a single far behind
    pair, single = Candidate((1, 2), 0.1, 0.930, 0.02), Candidate((2,), 0.1, 0.925, 0.02)
    other, behind = Candidate((3,), 0.1, 0.924, 0.02), Candidate((1,), 0.1, 0.80, 0.02)

    assert simplest([pair, single, other, behind], folds=5) is single
    assert simplest([pair._replace(spread=0.001), single], folds=5).layers == (1, 2)


def test_one_outcome_is_refused_with_what_to_look_at():
    problems = np.array([f"p{i}" for i in range(20) for _ in range(3)])
    for truth, word in ((np.ones(60, bool), "harder"), (np.zeros(60, bool), "easier")):
        with pytest.raises(DataError, match=r"Both outcomes have to occur in at least 5 problems") as caught:
            split(truth, problems, 5, 0)
        assert word in str(caught.value.hint)
