"""From a fitted scikit-learn classifier, or a torch network, to the probe that is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.probe import Probe
from lynxstop.errors import ConfigError
from lynxstop.extras import need
from lynxstop.probes.affine import Map, fold

_HINT = (
    "What can be: pipelines of StandardScaler and PCA, then LogisticRegression, LinearSVC, SGDClassifier, "
    "RidgeClassifier or another linear classifier, MLPClassifier with ReLU, CalibratedClassifierCV with "
    "method='sigmoid' and ensemble=False, or torch.nn.Sequential of Linear and ReLU."
)
_ROWS, _TOLERANCE = 64, 1e-3


def export_probe(estimator: Any, layers: Sequence[int]) -> Probe:
    """Turn a fitted estimator into a probe.

    The probe's score is the estimator's `decision_function`, and the log-odds of its probability where it has
    none. It need not be a calibrated logit: what decides is the certified threshold.

    Parameters
    ----------
    estimator : fitted classifier
        A `ProbeTrainer`, a scikit-learn classifier or pipeline, a search around one, or a
        `torch.nn.Sequential` of Linear and ReLU with one output.
    layers : sequence of int
        The hidden states its features are made of, ascending.

    Returns
    -------
    Probe
        What it computes has been compared with the estimator on random features.

    Raises
    ------
    ConfigError
        When the estimator is not fitted, not binary, or not made of affine maps with ReLU between them.
    """
    try:
        maps = _maps(estimator)
        single = [(np.asarray(w, np.float32), np.asarray(b, np.float32)) for w, b in maps]
        probe = Probe(tuple(layers), tuple((np.ascontiguousarray(w), b) for w, b in single))
    except AttributeError as error:
        raise ConfigError(
            f"{_name(estimator)} is not fitted: {error}.", hint="Call fit before exporting it."
        ) from error
    _compare(estimator, probe, maps)
    return probe


def _maps(estimator: Any) -> tuple[Map, ...]:
    """Affine maps with ReLU between them that an estimator computes."""
    for name, read in _READERS.items():
        if any(kind.__name__ == name for kind in type(estimator).__mro__):
            return read(estimator)
    if hasattr(estimator, "coef_") and hasattr(estimator, "intercept_"):
        return _linear(estimator)
    if not hasattr(estimator, "fit") or hasattr(estimator, "n_features_in_"):
        raise ConfigError(f"{_name(estimator)} cannot be exported as a probe.", hint=_HINT)
    raise ConfigError(
        f"{_name(estimator)} is not fitted, or cannot be exported as a probe.", hint=f"Call fit. {_HINT}"
    )


def _trainer(trainer: Any) -> tuple[Map, ...]:
    maps: tuple[Map, ...] = trainer.maps_
    return maps


def _searched(search: Any) -> tuple[Map, ...]:
    return _maps(search.best_estimator_)


def _frozen(frozen: Any) -> tuple[Map, ...]:
    return _maps(frozen.estimator)


def _linear(model: Any) -> tuple[Map, ...]:
    _binary(model)
    weight = np.atleast_2d(np.asarray(model.coef_, np.float64))
    bias = np.broadcast_to(np.asarray(model.intercept_, np.float64).ravel(), (1,))
    return ((weight, bias.copy()),)


def _perceptron(model: Any) -> tuple[Map, ...]:
    _binary(model)
    if model.activation != "relu" or model.out_activation_ != "logistic":
        raise ConfigError(
            f"The perceptron's activation is {model.activation!r}; a probe has ReLU.",
            hint="Fit MLPClassifier(activation='relu').",
        )
    return tuple((weight.T, bias) for weight, bias in zip(model.coefs_, model.intercepts_, strict=True))


def _calibrated(model: Any) -> tuple[Map, ...]:
    _binary(model)
    members = model.calibrated_classifiers_
    if len(members) != 1 or not hasattr(members[0].calibrators[0], "a_"):
        raise ConfigError(
            "A mean of several calibrated classifiers, or an isotonic curve, is not an affine map.",
            hint="Use CalibratedClassifierCV(..., method='sigmoid', ensemble=False).",
        )
    inner, curve = members[0].estimator, members[0].calibrators[0]
    if not hasattr(inner, "decision_function"):
        raise ConfigError(
            f"{_name(inner)} is calibrated on its probability, not on a logit.",
            hint="Calibrate a classifier with a decision_function, such as ProbeTrainer('mlp').",
        )
    *first, (weight, bias) = _maps(inner)
    return (*first, (-curve.a_ * weight, -curve.a_ * bias - curve.b_))


def _pipeline(pipeline: Any) -> tuple[Map, ...]:
    steps = [step for _, step in pipeline.steps if step is not None and step != "passthrough"]
    maps = _maps(steps[-1])
    for step in reversed(steps[:-1]):
        change = _CHANGES.get(type(step).__name__)
        if change is None:
            raise ConfigError(f"The step {_name(step)} cannot be folded into a probe.", hint=_HINT)
        maps = change(step, maps)
    return maps


def _scaled(scaler: Any, maps: tuple[Map, ...]) -> tuple[Map, ...]:
    width = maps[0][0].shape[1]
    scale = np.ones(width) if scaler.scale_ is None else scaler.scale_
    mean = np.zeros(width) if not scaler.with_mean else scaler.mean_
    return fold(mean, scale, maps)


def _projected(pca: Any, maps: tuple[Map, ...]) -> tuple[Map, ...]:
    (weight, bias), *rest = maps
    axes = pca.components_
    if pca.whiten:
        axes = axes / np.sqrt(pca.explained_variance_)[:, None]
    folded = weight @ axes
    return (folded, bias - folded @ pca.mean_), *rest


def _network(network: Any) -> tuple[Map, ...]:
    maps: list[Map] = []
    kinds = [type(layer).__name__ for layer in network]
    if kinds != [("Linear", "ReLU")[i % 2] for i in range(len(kinds))] or len(kinds) % 2 == 0:
        raise ConfigError(f"The network {kinds} is not Linear and ReLU in turn.", hint=_HINT)
    for layer in list(network)[::2]:
        weight = layer.weight.detach().cpu().numpy().astype(np.float64)
        bias = None if layer.bias is None else layer.bias.detach().cpu().numpy().astype(np.float64)
        maps.append((weight, np.zeros(len(weight)) if bias is None else bias))
    return tuple(maps)


_READERS: Mapping[str, Callable[[Any], tuple[Map, ...]]] = {
    "ProbeTrainer": _trainer,
    "Pipeline": _pipeline,
    "BaseSearchCV": _searched,
    "FrozenEstimator": _frozen,
    "MLPClassifier": _perceptron,
    "CalibratedClassifierCV": _calibrated,
    "Sequential": _network,
}
"""By the name of a class or one of its bases."""

_CHANGES: Mapping[str, Callable[[Any, tuple[Map, ...]], tuple[Map, ...]]] = {
    "StandardScaler": _scaled,
    "PCA": _projected,
}


def _binary(model: Any) -> None:
    classes = np.asarray(model.classes_)
    if len(classes) != 2 or classes.dtype.kind not in "biuf":
        raise ConfigError(
            f"{_name(model)} has the classes {classes.tolist()}.",
            hint="Fit it on booleans or 0 and 1; true means that an exit is right.",
        )


def _compare(estimator: Any, probe: Probe, maps: tuple[Map, ...]) -> None:
    """Refuse a probe that does not compute what the estimator does."""
    noise = np.random.default_rng(0).normal(size=(_ROWS, probe.width)).astype(np.float32)
    spread = np.abs(maps[0][0]).max(axis=0)
    features = (noise / np.where(spread > 0, spread, 1.0) / np.sqrt(probe.width)).astype(np.float32)
    expected, found = _scores(estimator, features), probe.score(features)
    allowed = _TOLERANCE * (1.0 + float(np.abs(expected).max()))
    if not np.allclose(expected, found, rtol=0.0, atol=allowed):
        raise ConfigError(
            f"{_name(estimator)} computes something else than its weights say.",
            hint=_HINT,
        )


def _scores(estimator: Any, features: NDArray[np.float32]) -> NDArray[np.float64]:
    if hasattr(estimator, "decision_function"):
        return np.asarray(estimator.decision_function(features), np.float64)
    if hasattr(estimator, "predict_proba"):
        chances = np.clip(np.asarray(estimator.predict_proba(features), np.float64), 1e-300, 1.0)
        return np.asarray(np.log(chances[:, 1]) - np.log(chances[:, 0]), np.float64)
    if hasattr(estimator, "forward"):
        torch = need("torch", "transformers")
        device = next(iter(estimator.parameters())).device
        with torch.inference_mode():
            return np.asarray(estimator(torch.tensor(features, device=device))[:, 0].cpu().double().numpy())
    raise ConfigError(f"{_name(estimator)} has neither scores nor probabilities.", hint=_HINT)


def _name(estimator: Any) -> str:
    return type(estimator).__name__
