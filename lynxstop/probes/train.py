"""Train a probe on recorded cues: layers and penalty by cross-validation that never parts a problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.probe import Probe
from lynxstop.calibration.repeats import joined_ids
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL
from lynxstop.errors import ConfigError, DataError
from lynxstop.extras import need
from lynxstop.probes.evidence import Evidence, platt
from lynxstop.probes.export import export_probe
from lynxstop.probes.fitting import ClassWeight
from lynxstop.probes.rivals import alone, rival_signals
from lynxstop.probes.search import PENALTIES, area, areas, by_penalty, out_of_fold, split
from lynxstop.probes.target import Target, target_named
from lynxstop.probes.trainer import ProbeTrainer
from lynxstop.recordings.kinds import of_kind
from lynxstop.replay.parts import Recorded


class Candidate(NamedTuple):
    """One line of the search: `auc` is the mean over folds that part problems, `spread` its deviation."""

    layers: tuple[int, ...]
    C: float
    auc: float
    spread: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TrainedProbe(Evidence):
    """A probe and the evidence for it, `lynxstop.probes.evidence.Evidence`.

    Parameters
    ----------
    probe : Probe
        Fitted on all cues.
    trainer : ProbeTrainer or another classifier
        The fitted classifier that the probe was exported from.
    chosen : Candidate
    table : tuple of Candidate
        All that were tried.
    """

    probe: Probe
    trainer: Any
    chosen: Candidate
    table: tuple[Candidate, ...]

    def report(self) -> dict[str, Any]:
        """All but arrays, ready for JSON and for the bundle's card."""
        return {
            "kind": getattr(self.trainer, "kind", type(self.trainer).__name__),
            "layers": list(self.chosen.layers),
            "C": getattr(self.trainer, "C_", None),
            "search": [{**line._asdict(), "layers": list(line.layers)} for line in self.table],
        } | self.summary()


def train(
    dataset: Recorded,
    *,
    target: Target = "agrees",
    kind: str = "logistic",
    estimator: Any = None,
    class_weight: ClassWeight = "auto",
    backend: str = "auto",
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
    dataset : Recorded
        Recorded traces of the training split.
    target : {"agrees", "right"}
        Predict that the answer forced at the cue equals the full trace's, or that it equals gold.
    kind : {"logistic", "mlp"}
        The layers are always chosen with the logistic probe, which is fast; then the kind is fitted on them.
    estimator : classifier, optional
        One of yours, in place of a kind; it must be one that `lynxstop.probes.export.export_probe` knows.
    class_weight, backend
        As in `ProbeTrainer`.
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
        On an unknown target, nothing to try, or data without hidden states.
    """
    if not dataset.layers:
        raise ConfigError(
            "The data hold no hidden states to train a probe on.",
            hint="Train a rule that needs none, or record layers: [probe] in the recipe.",
        )
    target_named(target)
    sets = (
        default_layer_sets(dataset.layers) if layer_sets is None else [tuple(sorted(s)) for s in layer_sets]
    )
    if not sets or not penalties:
        raise ConfigError("There is no layer set or no penalty to try.")
    known, truth, owners = _known(dataset, target, points)
    parts = split(truth, owners, folds, seed)
    table: list[Candidate] = []
    held_out: dict[Candidate, NDArray[np.float32]] = {}
    search = ProbeTrainer(class_weight=class_weight, backend=backend)
    for layers in sets:
        features = _features(dataset, layers, known)
        found = by_penalty(search, penalties, features, truth, parts, overwrite=True)
        for penalty, scores in zip(penalties, found, strict=True):
            own = areas(truth, scores, parts)
            table.append(Candidate(layers, penalty, float(np.mean(own)), float(np.std(own))))
            held_out[table[-1]] = scores
        del features
        if progress is not None:
            progress(len(table), len(sets) * len(penalties))
    chosen = simplest(table, len(parts))
    features = _features(dataset, chosen.layers, known)
    plain = kind == "logistic" and estimator is None
    trainer = estimator or ProbeTrainer(
        kind,
        chosen.C if kind == "logistic" else 1.0,
        seed=seed,
        class_weight=class_weight,
        backend=backend,
        copy=False,
    )
    logits = held_out[chosen] if plain else out_of_fold(trainer, features, truth, parts)
    trainer = need("sklearn.base", "calibrate").clone(trainer).fit(features, truth)
    scores = np.full(len(known), np.nan, np.float32)
    scores[known] = logits
    return TrainedProbe(
        probe=export_probe(trainer, chosen.layers),
        trainer=trainer,
        chosen=chosen,
        table=tuple(table),
        auc=area(truth, logits),
        rivals={
            name: alone(signal[known], truth, parts) for name, signal in rival_signals(dataset.cues()).items()
        },
        platt=platt(logits, truth),
        scores=scores,
        target=target,
        cues=len(truth),
        problems=len(set(owners.tolist())),
        rate=float(truth.mean()),
        problem_ids=dataset.problem_ids,
    )


def require_both_outcomes(dataset: Recorded, target: Target = "agrees", *, folds: int = 5) -> None:
    """Refuse data that nothing can be trained on, before more are recorded.

    Raises
    ------
    DataError
        When there are too few problems of an outcome.
    """
    _, truth, owners = _known(dataset, target, CUE | BOUNDARY | INTERVAL)
    split(truth, owners, folds, 0)


def _known(
    dataset: Recorded, target: str, points: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[Any]]:
    """Which cues have a known outcome; of these, the outcome and the problem."""
    cues = dataset.cues()
    known = np.array([value is not None for value in cues[target].to_pylist()], dtype=bool)
    known &= of_kind(cues, points)
    truth = np.array([bool(value) for value in cues[target].to_pylist()], dtype=bool)
    return known, truth[known], _owners(dataset)[known]


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


def _owners(dataset: Recorded) -> NDArray[Any]:
    """Problem of each cue; problems of one prompt are one."""
    traces = dataset.traces()
    names = np.array(traces["problem_id"].to_pylist(), dtype=np.str_)
    if "prompt_sha256" in traces.column_names:
        prompts = ["" if value is None else value for value in traces["prompt_sha256"].to_pylist()]
        names = joined_ids(names, np.array(prompts, dtype=np.str_))
    return np.repeat(names.astype(object), traces["cues"].to_numpy())


def _features(dataset: Recorded, layers: Sequence[int], rows: NDArray[np.bool_]) -> NDArray[np.float32]:
    features = dataset.features(layers, rows)
    blocks = (features[start : start + 4096] for start in range(0, len(features), 4096))
    if wrong := sum(int((~np.isfinite(block)).any(axis=1).sum()) for block in blocks):
        raise DataError(
            f"{wrong} cues have features that are not finite.",
            hint="Collect again in bfloat16 or float32; float16 overflows in some models.",
        )
    return features
