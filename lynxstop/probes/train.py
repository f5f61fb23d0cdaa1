"""Train a probe on recorded cues: layers and penalty by cross-validation that never parts a problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.points import CUE, of_kind
from lynxstop.errors import ConfigError, DataError
from lynxstop.extras import need
from lynxstop.probes.probe import Probe
from lynxstop.probes.rivals import Folds, alone, rival_signals
from lynxstop.probes.trainer import ProbeTrainer

Target = Literal["agrees", "right"]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


class Candidate(NamedTuple):
    """One line of the search: `auc` is the mean over folds that part problems, `spread` its deviation."""

    layers: tuple[int, ...]
    C: float
    auc: float
    spread: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainedProbe:
    """A probe and the evidence for it.

    Parameters
    ----------
    probe : Probe
        Fitted on all cues.
    trainer : ProbeTrainer
        The fitted classifier behind it.
    chosen : Candidate
    table : tuple of Candidate
        All that were tried.
    auc : float
        Of the out-of-fold scores of all cues together.
    rivals : dict of str to float
        AUC of each signal of `lynxstop.probes.rivals` alone, by the same folds and over all cues together.
    platt : tuple of float
        Slope and intercept: ``sigmoid(slope * score + intercept)`` is a calibrated probability (Platt 1999),
        from out-of-fold scores. It is for people to read; decisions compare scores.
    scores : ndarray
        Out-of-fold logits, float32, shape (cues,): calibration fixes its threshold grid on them. NaN where
        the target of a cue is unknown.
    target : {"agrees", "right"}
    cues, problems : int
        What it was trained on.
    rate : float
        Share of cues where the target holds.
    problem_ids : tuple of str
        The training problems; calibration must not use them.
    """

    probe: Probe
    trainer: ProbeTrainer
    chosen: Candidate
    table: tuple[Candidate, ...]
    auc: float
    rivals: dict[str, float]
    platt: tuple[float, float]
    scores: NDArray[np.float32]
    target: Target
    cues: int
    problems: int
    rate: float
    problem_ids: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """All but arrays, ready for JSON and for the bundle's card."""
        return {
            "target": self.target,
            "kind": self.trainer.kind,
            "cues": self.cues,
            "problems": self.problems,
            "rate": self.rate,
            "layers": list(self.chosen.layers),
            "C": self.trainer.C,
            "auc": self.auc,
            "rivals": self.rivals,
            "platt": list(self.platt),
            "search": [{**line._asdict(), "layers": list(line.layers)} for line in self.table],
        }


class TrainingData(Protocol):
    """What is read of a data set, or of a part of one."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Recorded layers."""

    @property
    def problem_ids(self) -> tuple[str, ...]:
        """Ids of the problems, each once."""

    def traces(self) -> Any:
        """One row per trace."""

    def cues(self) -> Any:
        """One row per decision point."""

    def features(
        self, layers: Sequence[int] | None = None, rows: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Features of the chosen decision points."""


def train(
    dataset: TrainingData,
    *,
    target: Target = "agrees",
    kind: str = "logistic",
    layer_sets: Iterable[Sequence[int]] | None = None,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
    seed: int = 0,
    points: int = CUE,
    progress: Callable[[int, int], None] | None = None,
) -> TrainedProbe:
    """Choose layers and penalty, fit, and keep the out-of-fold scores.

    Parameters
    ----------
    dataset : TrainingData
        A `lynxstop.collect.storage.DataSet`, or a part of one.
        Recorded traces of the training split.
    target : {"agrees", "right"}
        Foresee that the answer forced at the cue equals the full trace's, or that it equals gold.
    kind : {"logistic", "mlp"}
        The layers are always chosen with the logistic probe, which is fast; then the kind is fitted on them.
    layer_sets : iterable of sequences of int, optional
        Sets of recorded layers to try; by default `default_layer_sets`.
    penalties : sequence of float
        Values of `ProbeTrainer.C` to try.
    folds : int
        Parts of the cross-validation, made of whole problems.
    seed : int
        Fixes the parts and the perceptron.
    points : int
        Kinds of decision points to learn from, bits of `lynxstop.core.points`.
    progress : callable, optional
        Called with the numbers of finished and of all candidates.

    Raises
    ------
    DataError
        When features are not finite, the target is unknown everywhere, only one outcome occurs, or there are
        too few problems for the folds.
    ConfigError
        On an unknown target, or nothing to try.
    """
    if target not in ("agrees", "right"):
        raise ConfigError(f"There is no target {target!r}.", hint='Targets: "agrees", "right".')
    sets = (
        default_layer_sets(dataset.layers) if layer_sets is None else [tuple(sorted(s)) for s in layer_sets]
    )
    if not sets or not penalties:
        raise ConfigError("There is no layer set or no penalty to try.")
    cues, owners = dataset.cues(), _owners(dataset)
    known = np.array([value is not None for value in cues[target].to_pylist()], dtype=bool)
    known &= of_kind(cues, points)
    truth = np.array([bool(value) for value in cues[target].to_pylist()], dtype=bool)[known]
    parts = split(truth, owners[known], folds, seed)
    table: list[Candidate] = []
    for layers in sets:
        features = _features(dataset, layers, known)
        for penalty in penalties:
            table.append(_try(ProbeTrainer(C=penalty), layers, features, truth, parts))
            if progress is not None:
                progress(len(table), len(sets) * len(penalties))
    chosen = simplest(table, len(parts))
    features = _features(dataset, chosen.layers, known)
    trainer = ProbeTrainer(kind=kind, C=chosen.C if kind == "logistic" else 1.0, seed=seed)
    held_out = _out_of_fold(trainer, features, truth, parts)
    trainer.fit(features, truth)
    scores = np.full(len(known), np.nan, np.float32)
    scores[known] = held_out
    return TrainedProbe(
        probe=trainer.to_probe(chosen.layers),
        trainer=trainer,
        chosen=chosen,
        table=tuple(table),
        auc=_area(truth, held_out),
        rivals={name: alone(signal[known], truth, parts) for name, signal in rival_signals(cues).items()},
        platt=platt(held_out, truth),
        scores=scores,
        target=target,
        cues=len(truth),
        problems=len(set(owners[known].tolist())),
        rate=float(truth.mean()),
        problem_ids=dataset.problem_ids,
    )


def simplest(table: Sequence[Candidate], folds: int) -> Candidate:
    """Choose the fewest layers that are within one standard error of the best AUC; the best of those.

    The rule of one standard error (Breiman et al. 1984): what cross-validation cannot tell apart is decided
    by cost, so a tie does not flip with the last digits of the data.
    """
    best = max(table, key=lambda line: line.auc)
    enough = [line for line in table if line.auc >= best.auc - best.spread / folds**0.5]
    return min(enough, key=lambda line: (len(line.layers), -line.auc))


def default_layer_sets(recorded: Sequence[int]) -> list[tuple[int, ...]]:
    """The last layer, every other one alone, all pairs, and all together."""
    layers = sorted(recorded)
    sets: list[tuple[int, ...]] = [(layer,) for layer in reversed(layers)]
    sets += combinations(layers, 2)
    return list(dict.fromkeys([*sets, tuple(layers)]))


def split(truth: NDArray[np.bool_], problems: NDArray[Any], folds: int, seed: int) -> Folds:
    """Part cues into folds of whole problems with about equal shares of both outcomes.

    Raises
    ------
    DataError
        When that is impossible.
    """
    if folds < 2:
        raise ConfigError("Cross-validation needs at least 2 folds.")
    least = min((len(set(problems[truth == side].tolist())) for side in (False, True)), default=0)
    if least < folds:
        raise DataError(
            f"Training needs cues of both outcomes from at least {folds} problems each; there are {least}.",
            hint="Collect more problems, easier and harder ones.",
        )
    splitter = need("sklearn.model_selection", "calibrate").StratifiedGroupKFold
    parts = splitter(folds, shuffle=True, random_state=seed).split(truth, truth, problems)
    return [(train.astype(np.int64), test.astype(np.int64)) for train, test in parts]


def platt(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of the logistic curve through the scores."""
    model = (
        need("sklearn.linear_model", "calibrate")
        .LogisticRegression(C=1e6)
        .fit(scores[:, None].astype(np.float64), truth)
    )
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _area(truth: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    return float(need("sklearn.metrics", "calibrate").roc_auc_score(truth, scores))


def _owners(dataset: TrainingData) -> NDArray[Any]:
    traces = dataset.traces()
    return np.repeat(np.array(traces["problem_id"].to_pylist(), dtype=object), traces["cues"].to_numpy())


def _features(dataset: TrainingData, layers: Sequence[int], rows: NDArray[np.bool_]) -> NDArray[np.float32]:
    features = dataset.features(layers, rows)
    if not np.isfinite(features).all():
        raise DataError(
            f"{int((~np.isfinite(features)).any(axis=1).sum())} cues have features that are not finite.",
            hint="Collect again in bfloat16 or float32; float16 overflows in some models.",
        )
    return features


def _try(
    trainer: ProbeTrainer,
    layers: tuple[int, ...],
    features: NDArray[np.float32],
    truth: NDArray[np.bool_],
    parts: Folds,
) -> Candidate:
    scores = _out_of_fold(trainer, features, truth, parts)
    areas = [_area(truth[test], scores[test]) for _, test in parts]
    return Candidate(layers, trainer.C, float(np.mean(areas)), float(np.std(areas)))


def _out_of_fold(
    trainer: ProbeTrainer, features: NDArray[np.float32], truth: NDArray[np.bool_], parts: Folds
) -> NDArray[np.float32]:
    scores = np.empty(len(truth), np.float32)
    layers = (0,)
    base = need("sklearn.base", "calibrate")
    for train, test in parts:
        fitted = base.clone(trainer).fit(features[train], truth[train])
        scores[test] = fitted.to_probe(layers).score(features[test])
    return scores
