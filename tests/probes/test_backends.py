"""scikit-learn and torch fit the same probe."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lynxstop.errors import ConfigError
from lynxstop.probes import torch_logistic
from lynxstop.probes.fitting import WIDE, choose_backend
from lynxstop.probes.search import by_penalty, split
from lynxstop.probes.train import train
from lynxstop.probes.trainer import ProbeTrainer
from tests.support.made_data import LAYERS, data_set

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU"))]


def cues(seed=0, count=1500, width=40):
    """Correlated features of very different scales and offsets, one of them constant."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(count, 3))
    X = rng.normal(size=(count, width)) + hidden @ rng.normal(size=(3, width))
    X = (X + np.linspace(-50, 50, width)) * np.geomspace(1e-3, 1e3, width)
    X[:, 7] = 3.0
    return X.astype(np.float32), rng.random(count) < 1 / (1 + np.exp(-3 * hidden[:, 0] - 1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("C", [1e-3, 1.0])
def test_the_logistic_regression_is_the_same(C, class_weight, device):
    # given features that the fit must not touch
    X, y = cues()
    kept = X.copy()
    # when both fit
    ours = ProbeTrainer(C=C, class_weight=class_weight, backend="torch", device=device).fit(X, y)
    theirs = ProbeTrainer(C=C, class_weight=class_weight, backend="sklearn").fit(X, y)
    # then logits agree, and so do those of the exported probes
    np.testing.assert_array_equal(X, kept)
    assert (ours.backend_, theirs.backend_) == ("torch", "sklearn")
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=0.02)
    np.testing.assert_allclose(ours.to_probe((1,)).score(X), theirs.to_probe((1,)).score(X), atol=0.02)


def test_without_a_copy_the_features_are_overwritten_and_the_fit_is_the_same():
    X, y = cues()
    kept = X.copy()
    first = ProbeTrainer(backend="torch").fit(kept, y)
    second = ProbeTrainer(backend="torch", copy=False).fit(X, y)
    assert not np.array_equal(X, kept)
    np.testing.assert_array_equal(first.decision_function(kept), second.decision_function(kept))


@pytest.mark.parametrize(("count", "width"), [(300, 900), (4000, 20)])
def test_it_reaches_the_optimum_of_every_fold_and_penalty(count, width):
    # given features wider than there are rows, or the reverse, and folds of unlike scale
    rng = np.random.default_rng(1)
    X = rng.normal(size=(count, width)).astype(np.float32)
    X[: count // 2] *= 1.5
    y = rng.random(count) < 1 / (1 + np.exp(-2 * X[:, 0]))
    groups = np.repeat(np.arange(count // 4), 4)
    parts = split(y, groups, 4, 0)
    # when all are fitted at once
    trainer = ProbeTrainer(backend="torch")
    found = by_penalty(trainer, (1e-3, 1e-2), X, y, parts)
    # then each is what scikit-learn finds with its tolerance set low
    for C, scores in zip((1e-3, 1e-2), found, strict=True):
        for learn, test in parts:
            mean, scale = X[learn].mean(0, np.float64), X[learn].std(0, dtype=np.float64)
            model = LogisticRegression(C=C, tol=1e-9, max_iter=10_000).fit(
                (X[learn] - mean) / scale, y[learn]
            )
            expected = model.decision_function((X[test] - mean) / scale)
            np.testing.assert_allclose(scores[test], expected, atol=1e-2)


def test_features_too_wide_for_a_gram_matrix_are_fitted_all_the_same(monkeypatch):
    X, y = cues()
    monkeypatch.setattr(torch_logistic, "WIDEST", 10)
    ours = ProbeTrainer(backend="torch").fit(X, y).decision_function(X)
    np.testing.assert_allclose(
        ours, ProbeTrainer(backend="sklearn").fit(X, y).decision_function(X), atol=0.02
    )


def test_training_gives_the_same_table_and_scores():
    data = data_set()
    first, second = (train(data, penalties=(1e-2, 1.0), backend=name) for name in ("torch", "sklearn"))
    assert [line[:2] for line in first.table] == [line[:2] for line in second.table]
    np.testing.assert_allclose([c.auc for c in first.table], [c.auc for c in second.table], atol=2e-3)
    assert first.chosen[:2] == second.chosen[:2]
    np.testing.assert_allclose(first.scores, second.scores, atol=0.01)
    X = data.features(first.chosen.layers)
    np.testing.assert_allclose(first.probe.score(X), second.probe.score(X), atol=0.01)


@pytest.mark.parametrize("device", DEVICES)
def test_the_perceptron_finds_what_scikit_learns_does_and_repeats_itself(device):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 6)).astype(np.float32)
    y = X[:, 0] * X[:, 1] > 0.4
    options: dict[str, Any] = {"kind": "mlp", "C": 1.0, "hidden": (32, 8), "seed": 3}
    fits = [ProbeTrainer(**options, backend="torch", device=device).fit(X[:2000], y[:2000]) for _ in range(2)]
    theirs = ProbeTrainer(**options, backend="sklearn").fit(X[:2000], y[:2000])
    aucs = [roc_auc_score(y[2000:], fit.decision_function(X[2000:])) for fit in (*fits, theirs)]
    np.testing.assert_allclose(fits[0].decision_function(X), fits[1].decision_function(X), atol=1e-5)
    assert aucs[0] > 0.95
    assert aucs[0] == pytest.approx(aucs[2], abs=0.02)
    # and rare outcomes weigh more in both
    rates = [fit.predict(X[2000:]).mean() for fit in (fits[0], theirs)]
    assert rates[0] == pytest.approx(rates[1], abs=0.05)


def test_wide_features_go_to_torch_and_others_to_scikit_learn():
    assert choose_backend("auto", WIDE - 1) == "sklearn"
    assert choose_backend("auto", WIDE) == "torch"
    assert choose_backend("sklearn", WIDE) == "sklearn"
    with pytest.raises(ConfigError, match="Backends"):
        choose_backend("jax", 1)


def test_a_device_that_torch_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="device"):
        ProbeTrainer(backend="torch", device="abacus").fit(*cues())


def test_the_layers_recorded_are_the_layers_trained():
    assert train(data_set(), layer_sets=[LAYERS], penalties=(1.0,), backend="torch").probe.layers == LAYERS
