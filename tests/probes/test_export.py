"""Estimators of any make become probes that score the same, or are refused with the reason."""

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, LinearSVC

from lynxstop.errors import BundleError, ConfigError
from lynxstop.probes.export import export_probe
from lynxstop.probes.train import train
from lynxstop.probes.trainer import ProbeTrainer
from tests.support.made_data import data_set


def cues(count=400, width=12, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.random(count) < 0.6
    X = rng.normal(size=(count, width))
    X[:, 0] += 2 * y
    return ((X + np.linspace(-5, 5, width)) * np.geomspace(0.1, 10, width)).astype(np.float32), y


def perceptron(**options):
    return MLPClassifier((16, 8), max_iter=60, early_stopping=True, random_state=0, **options)


GOOD = {
    "logistic": LogisticRegression(max_iter=5000),
    "scaled logistic": make_pipeline(StandardScaler(), LogisticRegression()),
    "support vectors": make_pipeline(StandardScaler(), LinearSVC()),
    "a linear kernel": make_pipeline(StandardScaler(), SVC(kernel="linear")),
    "stochastic": make_pipeline(StandardScaler(), SGDClassifier(random_state=0)),
    "ridge": make_pipeline(StandardScaler(), RidgeClassifier()),
    "only centred": make_pipeline(StandardScaler(with_std=False), RidgeClassifier()),
    "only scaled": make_pipeline(StandardScaler(with_mean=False), RidgeClassifier()),
    "principal axes": make_pipeline(StandardScaler(), PCA(4), LogisticRegression()),
    "white principal axes": make_pipeline("passthrough", PCA(4, whiten=True), LogisticRegression()),
    "perceptron": make_pipeline(StandardScaler(), perceptron()),
    "calibrated": make_pipeline(StandardScaler(), CalibratedClassifierCV(LinearSVC(), ensemble=False)),
    "calibrated pipeline": CalibratedClassifierCV(
        make_pipeline(StandardScaler(), LinearSVC()), ensemble=False, cv=3
    ),
    "calibrated perceptron": CalibratedClassifierCV(
        ProbeTrainer("mlp", C=1.0, hidden=(8,)), ensemble=False, cv=3
    ),
    "searched": GridSearchCV(make_pipeline(StandardScaler(), LinearSVC()), {"linearsvc__C": [0.1, 1]}, cv=3),
    "ours": ProbeTrainer(C=0.1),
}


def score(estimator, X):
    if hasattr(estimator, "decision_function"):
        return estimator.decision_function(X)
    chances = estimator.predict_proba(X)
    return np.log(chances[:, 1] / chances[:, 0])


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_probe_scores_what_the_estimator_does(name):
    X, y = cues()
    estimator = GOOD[name].fit(X, y)
    probe = export_probe(estimator, (1, 3))
    expected = score(estimator, X)
    np.testing.assert_allclose(probe.score(X), expected, atol=2e-4 * (1 + np.abs(expected).max()))
    assert probe.layers == (1, 3)


def test_a_calibrated_classifier_that_was_fitted_before_is_exported():
    X, y = cues()
    fitted = make_pipeline(StandardScaler(), LinearSVC()).fit(X[:200], y[:200])
    calibrated = CalibratedClassifierCV(FrozenEstimator(fitted), method="sigmoid").fit(X[200:], y[200:])
    expected = score(calibrated, X)
    np.testing.assert_allclose(export_probe(calibrated, (2,)).score(X), expected, atol=1e-3)


def test_a_torch_network_is_exported():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(12, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1, bias=False))
    X, _ = cues()
    with torch.inference_mode():
        expected = network(torch.from_numpy(X))[:, 0].numpy()
    np.testing.assert_allclose(export_probe(network, (2,)).score(X), expected, atol=1e-4)
    for layers in (
        [torch.nn.Linear(12, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)],
        [torch.nn.Linear(12, 1), torch.nn.ReLU()],
    ):
        with pytest.raises(ConfigError, match="is not Linear and ReLU in turn"):
            export_probe(torch.nn.Sequential(*layers), (2,))


class Shifted(LogisticRegression):  # type: ignore[misc]
    """Looks linear, and is not what its weights say."""

    def decision_function(self, X):
        return super().decision_function(X) + 1.0


BAD = {
    "forest": (RandomForestClassifier(3), "cannot be exported"),
    "kernel": (SVC(), "cannot be exported"),
    "curved features": (
        make_pipeline(StandardScaler(), PolynomialFeatures(), RidgeClassifier()),
        "PolynomialFeatures",
    ),
    "a scaler that is not known": (make_pipeline(MinMaxScaler(), RidgeClassifier()), "MinMaxScaler"),
    "another activation": (perceptron(activation="tanh"), "tanh"),
    "many calibrated": (CalibratedClassifierCV(LinearSVC(), ensemble=True), "mean of several"),
    "isotonic": (CalibratedClassifierCV(LinearSVC(), method="isotonic", ensemble=False), "isotonic"),
    "a calibrated probability": (CalibratedClassifierCV(perceptron(), ensemble=False, cv=2), "logit"),
    "not what it seems": (Shifted(), "something else"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_is_no_probe_is_refused(name):
    estimator, reason = BAD[name]
    with pytest.raises(ConfigError, match=reason):
        export_probe(estimator.fit(*cues()), (1,))


@pytest.mark.parametrize(
    "estimator",
    [ProbeTrainer(), LogisticRegression(), make_pipeline(StandardScaler(), LinearSVC()), GOOD["searched"]],
    ids=lambda e: type(e).__name__,
)
def test_an_estimator_that_was_not_fitted_is_refused(estimator):
    from sklearn.base import clone

    with pytest.raises(ConfigError, match="fit"):
        export_probe(clone(estimator), (1,))


def test_classes_must_say_which_is_right():
    X, y = cues()
    with pytest.raises(ConfigError, match="classes"):
        export_probe(RidgeClassifier().fit(X, np.where(y, "good", "bad")), (1,))
    with pytest.raises(ConfigError, match="classes"):
        export_probe(RidgeClassifier().fit(X, np.arange(len(y)) % 3), (1,))


def test_layers_must_fit_the_width():
    with pytest.raises(BundleError, match="layers"):
        export_probe(RidgeClassifier().fit(*cues()), (1, 2, 3, 4, 5))


def test_training_takes_an_estimator_of_ones_own():
    # given a pipeline in place of a kind
    data = data_set()
    trained = train(data, estimator=GOOD["support vectors"], layer_sets=[(2,)], penalties=(1e-2,))
    # then its probe and out-of-fold scores are kept as those of the others are
    assert trained.auc > 0.85
    expected = trained.trainer.decision_function(data.features((2,)))
    np.testing.assert_allclose(trained.probe.score(data.features((2,))), expected, atol=1e-4)
    assert trained.report()["kind"] == "Pipeline"
    assert np.isfinite(trained.scores).all()


def test_a_search_with_groups_is_exported():
    X, y = cues()
    problems = np.repeat(np.arange(100), 4)
    search = GridSearchCV(ProbeTrainer(), {"C": [1e-4, 1e-1]}, scoring="roc_auc", cv=GroupKFold(4))
    search.fit(X, y, groups=problems)
    expected = search.best_estimator_.to_probe((2,)).score(X)
    np.testing.assert_array_equal(export_probe(search, (2,)).score(X), expected)
