"""Fitting affine maps to features, by scikit-learn or torch: what is fitted does not depend on which."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.errors import ConfigError
from lynxstop.extras import need
from lynxstop.probes.affine import Backend, FitSettings, Fitted, fold

ClassWeight = str | dict[Any, float] | None

WIDE = 1 << 25
"""Numbers in the features (128 MiB) from which `auto` takes torch."""


def choose_backend(name: str, numbers: int) -> Backend:
    """Decide on a backend.

    Parameters
    ----------
    name : {"auto", "sklearn", "torch"}
    numbers : int
        In the features: cues times width.

    Raises
    ------
    ConfigError
        On another name.
    MissingExtraError
        When torch is asked for and not installed.
    """
    if name not in ("auto", "sklearn", "torch"):
        raise ConfigError(f"There is no backend {name!r}.", hint="Backends: auto, sklearn, torch.")
    if name == "torch":
        need("torch", "transformers")
    if name == "sklearn" or (name == "auto" and (numbers < WIDE or find_spec("torch") is None)):
        return "sklearn"
    return "torch"


def row_weights(
    weight: ClassWeight, kind: str, classes: NDArray[Any], labels: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Weights of rows by their class, shape (cues,).

    Parameters
    ----------
    weight : "auto", "balanced", dict or None
        "auto" is "balanced" for the perceptron and None for the logistic regression.
    kind : str
    classes : ndarray of shape (2,)
    labels : ndarray
        0 or 1: places in `classes`.
    """
    chosen = ("balanced" if kind == "mlp" else None) if weight == "auto" else weight
    weigh = need("sklearn.utils.class_weight", "calibrate").compute_sample_weight
    return np.asarray(weigh(chosen, classes[labels]), np.float32)


def fit(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: NDArray[np.float32],
    settings: FitSettings,
    *,
    overwrite: bool = False,
) -> Fitted:
    """Standardise and fit.

    Parameters
    ----------
    features : ndarray
        float32, shape (cues, width).
    labels : ndarray
        0 or 1, shape (cues,).
    rows : ndarray
        float32, shape (cues,): weights.
    settings : FitSettings
    overwrite : bool
        Whether the features may be destroyed, which saves a copy.
    """
    if settings.backend == "torch":
        from lynxstop.probes import torch_fitting

        return torch_fitting.fit(features, labels, rows, settings, overwrite=overwrite)
    scaler = need("sklearn.preprocessing", "calibrate").StandardScaler(copy=not overwrite).fit(features)
    standard = scaler.transform(features)
    weights = None if (rows == 1.0).all() else rows
    if settings.kind == "logistic":
        linear = need("sklearn.linear_model", "calibrate")
        model = linear.LogisticRegression(C=settings.C, max_iter=settings.max_iter)
        model.fit(standard, labels, sample_weight=weights)
        maps = [(model.coef_, model.intercept_)]
    else:
        model = need("sklearn.neural_network", "calibrate").MLPClassifier(
            settings.hidden,
            alpha=1 / settings.C,
            early_stopping=True,
            max_iter=settings.max_iter,
            random_state=settings.seed,
        )
        model.fit(standard, labels, sample_weight=weights)
        maps = [(weight.T, bias) for weight, bias in zip(model.coefs_, model.intercepts_, strict=True)]
    return Fitted(fold(scaler.mean_, scaler.scale_, maps), int(np.max(model.n_iter_)))
