"""A probe as a scikit-learn classifier: standardise, fit, export."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lynxstop.errors import ConfigError, MissingExtraError
from lynxstop.probes.probe import Affine, Probe

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise MissingExtraError("scikit-learn", "calibrate") from error


class ProbeTrainer(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifier of hidden states that exports a `Probe`.

    Parameters
    ----------
    kind : {"logistic", "mlp"}
        Logistic regression, or the perceptron of LYNX (Akgül et al. 2025): two hidden layers, ReLU, Adam,
        early stopping, inverse-frequency class weights.
    C : float
        Inverse strength of the L2 penalty: on the logistic weights, or as ``alpha = 1 / C`` on the
        perceptron's.
    hidden : tuple of int
        Sizes of the perceptron's hidden layers.
    max_iter : int
        Iterations, or epochs of the perceptron.
    seed : int
        Fixes initial weights, order and early-stopping split of the perceptron.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
    scaler_, model_ : fitted scikit-learn estimators
    n_iter_ : int or ndarray
        Iterations of the fit.

    Notes
    -----
    The perceptron's early stopping holds out single cues, as LYNX does; that only decides when it stops.
    Everything measured elsewhere holds out whole problems.
    """

    def __init__(
        self,
        kind: str = "logistic",
        C: float = 0.01,
        hidden: tuple[int, ...] = (256, 64),
        max_iter: int = 2000,
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.C = C
        self.hidden = hidden
        self.max_iter = max_iter
        self.seed = seed

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on features of shape (cues, width) and a binary target.

        Raises
        ------
        ConfigError
            On an unknown kind or C <= 0.
        """
        if self.kind not in ("logistic", "mlp"):
            raise ConfigError(f"There is no probe of kind {self.kind!r}.", hint='Kinds: "logistic", "mlp".')
        if not self.C > 0:
            raise ConfigError(f"C is a positive number, not {self.C!r}.")
        features, target = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(target)
        self.classes_, labels = np.unique(target, return_inverse=True)
        self.scaler_ = StandardScaler().fit(features)
        standard = self.scaler_.transform(features)
        if self.kind == "logistic":
            self.model_ = LogisticRegression(C=self.C, max_iter=self.max_iter).fit(standard, labels)
        else:
            self.model_ = MLPClassifier(
                self.hidden,
                alpha=1 / self.C,
                early_stopping=True,
                max_iter=self.max_iter,
                random_state=self.seed,
            ).fit(standard, labels, sample_weight=compute_sample_weight("balanced", labels))
        self.n_iter_ = self.model_.n_iter_
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of the two classes, shape (cues, 2)."""
        check_is_fitted(self)
        features = validate_data(self, X, dtype=np.float32, reset=False)
        probabilities: NDArray[np.float64] = self.model_.predict_proba(self.scaler_.transform(features))
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The more probable class, shape (cues,)."""
        check_is_fitted(self)
        chosen: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return chosen

    def to_probe(self, layers: tuple[int, ...]) -> Probe:
        """Export for serving, with the standardiser folded into the first map.

        Parameters
        ----------
        layers : tuple of int
            The hidden states the features were made of, ascending.
        """
        check_is_fitted(self)
        if self.kind == "logistic":
            maps = [(self.model_.coef_, self.model_.intercept_)]
        else:
            maps = [(w.T, b) for w, b in zip(self.model_.coefs_, self.model_.intercepts_, strict=True)]
        weight, bias = (np.asarray(part, np.float64) for part in maps[0])
        folded = weight / self.scaler_.scale_
        maps[0] = (folded, bias - folded @ self.scaler_.mean_)
        return Probe(layers, tuple(_affine(*part) for part in maps))


def _affine(weight: NDArray[Any], bias: NDArray[Any]) -> Affine:
    return np.ascontiguousarray(weight, np.float32), np.ascontiguousarray(bias, np.float32)
