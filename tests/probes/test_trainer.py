"""The classifier behind a probe: a scikit-learn citizen whose export scores the same."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from lynxstop.artifacts.probe import Probe
from lynxstop.errors import ConfigError
from lynxstop.probes.trainer import ProbeTrainer


def cues(seed=0, count=400, width=12):
    """Features of very different scales and offsets, one of them constant; the first tells the class."""
    rng = np.random.default_rng(seed)
    y = rng.random(count) < 0.7
    X = rng.normal(size=(count, width))
    X[:, 0] += y
    X = (X + np.linspace(-50, 50, width)) * np.geomspace(1e-3, 1e3, width)
    X[:, -1] = 3.0
    return X.astype(np.float32), y


@parametrize_with_checks([ProbeTrainer()])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_the_exported_probe_scores_what_the_classifier_predicts(kind, tmp_path):
    # given a fitted classifier with its own standardiser
    X, y = cues()
    trainer = ProbeTrainer(kind, C=1.0, hidden=(16, 8), max_iter=300).fit(X, y)
    # when it is exported, saved and loaded
    trainer.to_probe((2, 5)).save(tmp_path / "probe.safetensors")
    probe = Probe.load(tmp_path / "probe.safetensors")
    # then raw features give the logits of its probabilities
    scores = probe.score(X).astype(np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), trainer.predict_proba(X)[:, 1], atol=2e-5)
    assert probe.layers == (2, 5)


def test_it_works_in_a_grid_search():
    X, y = cues()
    search = GridSearchCV(ProbeTrainer(), {"C": [1e-6, 1e-1]}, scoring="roc_auc", cv=3).fit(X, y)
    assert search.best_params_ == {"C": 0.1}
    assert clone(search.best_estimator_).get_params() == search.best_estimator_.get_params()
    assert search.best_estimator_.score(X, y) > 0.6


def test_the_perceptron_finds_what_a_line_cannot_and_repeats_itself():
    X = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)
    y = X[:, 0] * X[:, 1] > 0
    fits = [ProbeTrainer("mlp", C=1.0, hidden=(32,), seed=3).fit(X[:1500], y[:1500]) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].predict_proba(X), fits[1].predict_proba(X))
    assert ProbeTrainer().fit(X[:1500], y[:1500]).score(X[1500:], y[1500:]) < 0.6
    assert fits[0].score(X[1500:], y[1500:]) > 0.85


def test_the_perceptron_weighs_rare_outcomes_up():
    # given pure noise and many more hits than misses
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(6000, 4)).astype(np.float32), rng.random(6000) < 0.9
    # then, weighted, it sees both as equally likely, while the line tells their rate
    assert ProbeTrainer("mlp", C=0.1, hidden=(8,)).fit(X, y).predict_proba(X)[:, 1].mean() < 0.6
    assert ProbeTrainer(C=0.1).fit(X, y).predict_proba(X)[:, 1].mean() > 0.85


@pytest.mark.parametrize("wrong", [{"kind": "forest"}, {"C": 0.0}])
def test_wrong_parameters_are_refused_at_fit(wrong):
    with pytest.raises(ConfigError):
        ProbeTrainer(**wrong).fit(*cues())
