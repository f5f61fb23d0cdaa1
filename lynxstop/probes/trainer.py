"""A probe as a scikit-learn classifier: standardise, fit, export."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lynxstop.artifacts.probe import Affine, Probe
from lynxstop.errors import ConfigError, MissingExtraError
from lynxstop.probes import fitting
from lynxstop.probes.affine import FitSettings, Map
from lynxstop.probes.fitting import ClassWeight, choose_backend, row_weights

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise MissingExtraError("scikit-learn", "calibrate") from error

_BLOCK = 4096


class ProbeTrainer(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifier of hidden states that exports a `Probe`.

    Parameters
    ----------
    kind : {"logistic", "mlp"}
        Logistic regression, or the perceptron of LYNX (Akgül et al. 2025): two hidden layers, ReLU, Adam,
        early stopping, inverse-frequency class weights.
    C : float or "cv"
        Inverse strength of the L2 penalty: on the logistic weights, or as ``alpha = 1 / C`` on the
        perceptron's. With "cv" the logistic one is chosen by cross-validation over whole groups, which `fit`
        must be given.
    hidden : tuple of int
        Sizes of the perceptron's hidden layers.
    max_iter : int
        Iterations, or epochs of the perceptron.
    seed : int
        Fixes folds, and initial weights, order and early-stopping split of the perceptron.
    class_weight : "auto", "balanced", dict or None
        As in scikit-learn. "auto" is "balanced" for the perceptron, and None for the logistic regression,
        whose logits it would take out of calibration.
    backend : {"auto", "sklearn", "torch"}
        What fits. "auto" takes torch, where it is installed, for features of 128 MiB and more.
    device : str, optional
        Of the torch backend, as PyTorch names it; the GPU where there is one by default.
    copy : bool
        Whether features are kept as they are; without a copy, `fit` may destroy float32 arrays.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
    C_ : float
        The penalty that was used.
    backend_ : str
    maps_ : tuple of (weight, bias)
        float64 maps on raw features, with ReLU between them; the standardiser is folded into the first.
    n_iter_ : int
        Iterations of the fit.

    Notes
    -----
    The perceptron's early stopping holds out single cues, as LYNX does; that only decides when it stops.
    Everything measured elsewhere holds out whole problems.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    >>> trainer = ProbeTrainer(C=0.1).fit(X, X[:, 0] > 0)
    >>> trainer.to_probe(layers=(3,)).score(X[:2]).shape
    (2,)
    """

    def __init__(
        self,
        kind: str = "logistic",
        C: float | str = 0.01,
        hidden: tuple[int, ...] = (256, 64),
        max_iter: int = 2000,
        seed: int = 0,
        class_weight: ClassWeight = "auto",
        backend: str = "auto",
        device: str | None = None,
        copy: bool = True,
    ) -> None:
        self.kind = kind
        self.C = C
        self.hidden = hidden
        self.max_iter = max_iter
        self.seed = seed
        self.class_weight = class_weight
        self.backend = backend
        self.device = device
        self.copy = copy

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit.

        Parameters
        ----------
        X : array of shape (cues, width)
        y : array of shape (cues,)
            Two classes; the greater one means that an exit is right.
        groups : array of shape (cues,), optional
            The problem of each cue; needed with ``C="cv"``, and not used otherwise.

        Raises
        ------
        ConfigError
            On an unknown kind or backend, or a wrong C.
        """
        self._check()
        features, target = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(target)
        self.classes_, labels = np.unique(target, return_inverse=True)
        if len(self.classes_) > 2:
            kind = type_of_target(target, input_name="y")
            raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")
        if len(self.classes_) < 2:
            raise ValueError("A classifier needs cues of two classes, but the data contains only one class.")
        self.C_ = self._penalty(features, labels.astype(bool), groups)
        settings = self.settings(features.size, self.C_)
        rows = row_weights(self.class_weight, self.kind, self.classes_, labels)
        self.backend_ = settings.backend
        self.maps_: tuple[Map, ...]
        self.maps_, self.n_iter_ = fitting.fit(features, labels, rows, settings, overwrite=not self.copy)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits of the greater class, shape (cues,): what the exported probe computes in float32."""
        check_is_fitted(self)
        features = validate_data(self, X, dtype=np.float32, reset=False)
        blocks = (features[start : start + _BLOCK] for start in range(0, len(features), _BLOCK))
        return np.concatenate([_forward(self.maps_, block) for block in blocks])

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of the two classes, shape (cues, 2)."""
        logits = self.decision_function(X)
        both = np.stack([logits, -logits], axis=1)
        probabilities: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, both))
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The more probable class, shape (cues,)."""
        greater = self.decision_function(X) > 0
        chosen: NDArray[Any] = self.classes_[greater.astype(int)]
        return chosen

    def to_probe(self, layers: tuple[int, ...]) -> Probe:
        """Export for serving, with the standardiser folded into the first map.

        Parameters
        ----------
        layers : tuple of int
            The hidden states the features were made of, ascending.
        """
        check_is_fitted(self)
        return Probe(layers, tuple(_affine(*part) for part in self.maps_))

    def settings(self, numbers: int, C: float) -> FitSettings:
        """Return how features of so many numbers are fitted at a penalty, with the backend decided."""
        backend = choose_backend(self.backend, numbers)
        hidden = tuple(self.hidden)
        return FitSettings(self.kind, C, hidden, self.max_iter, self.seed, backend, self.device)

    def _check(self) -> None:
        if self.kind not in ("logistic", "mlp"):
            raise ConfigError(f"There is no probe of kind {self.kind!r}.", hint='Kinds: "logistic", "mlp".')
        if self.C == "cv":
            if self.kind != "logistic":
                raise ConfigError('C="cv" is for the logistic probe.', hint="Use GridSearchCV for the other.")
        elif isinstance(self.C, str) or not self.C > 0:
            raise ConfigError(f'C is a positive number or "cv", not {self.C!r}.')

    def _penalty(
        self, features: NDArray[np.float32], truth: NDArray[np.bool_], groups: ArrayLike | None
    ) -> float:
        if self.C != "cv":
            return float(self.C)
        if groups is None:
            raise ConfigError(
                'C="cv" needs the problem of every cue.',
                hint="Call fit(X, y, groups=problem_ids); a split by cue would let it know the problem.",
            )
        from lynxstop.probes.search import PENALTIES, areas, by_penalty, split

        parts = split(truth, np.asarray(groups), 5, self.seed)
        found = by_penalty(self, PENALTIES, features, truth, parts)
        means = [float(np.mean(areas(truth, scores, parts))) for scores in found]
        return PENALTIES[int(np.argmax(means))]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _forward(maps: tuple[Map, ...], features: NDArray[np.float32]) -> NDArray[np.float64]:
    values = features.astype(np.float64)
    for number, (weight, bias) in enumerate(maps):
        values = (np.maximum(values, 0.0) if number else values) @ weight.T + bias
    logits: NDArray[np.float64] = values[:, 0]
    return logits


def _affine(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> Affine:
    return np.ascontiguousarray(weight, np.float32), np.ascontiguousarray(bias, np.float32)
