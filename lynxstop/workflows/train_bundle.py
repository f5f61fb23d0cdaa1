"""From recorded traces to a bundle: a probe where hidden states were recorded, a rule where none were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lynxstop.artifacts.bundle import Bundle
from lynxstop.core.policy import GUARDS
from lynxstop.errors import ConfigError
from lynxstop.probes.target import target_named
from lynxstop.probes.train import TrainedProbe, train
from lynxstop.recordings.storage import Recording
from lynxstop.rules.served import serve
from lynxstop.rules.table import rule_named
from lynxstop.workflows.make_bundle import make_bundle
from lynxstop.workflows.train_rule import DEFAULT_RULE, TrainedRule, train_rule

KINDS = ("logistic", "mlp")


def train_bundle(
    data: Recording,
    path: Path,
    name: str,
    *,
    target: str = "agrees",
    kind: str = "logistic",
    layers: Sequence[int] | None = None,
    rule: str | None = None,
    backend: str = "auto",
    guards: Mapping[str, Any] = GUARDS,
    tilt: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Bundle, TrainedProbe | TrainedRule]:
    """Train what the data allow, and write it as a bundle that is not calibrated yet.

    Parameters
    ----------
    data : Recording
        Recorded traces of the training split.
    path : Path
        Folder of the bundle.
    name : str
        Title of its card.
    target : {"agrees", "right"}
    kind : {"logistic", "mlp"}
        Of the probe.
    layers : sequence of int, optional
        Recorded layers of the probe; chosen by cross-validation by default.
    rule : str, optional
        Serve this rule instead of the probe's logit; by default `DEFAULT_RULE` on data without hidden states.
    backend : {"auto", "sklearn", "torch"}
    guards, tilt
        Of the policy; see `lynxstop.workflows.make_bundle.make_bundle`.
    seed : int
        Fixes the folds.
    progress : callable, optional
        Called with the numbers of finished and of all steps.

    Raises
    ------
    ConfigError
        On an unknown target, kind, rule or layer.
    DataError
        When the data are too few, or all of one outcome.
    """
    predicted = target_named(target)
    if kind not in KINDS:
        raise ConfigError(f"There is no kind of probe {kind!r}.", hint=f"Kinds: {', '.join(KINDS)}.")
    served = None if rule is None else serve(rule_named(rule)).rule
    if served is None and not data.layers:
        served = rule_named(DEFAULT_RULE)
    trained: TrainedProbe | TrainedRule
    if served is not None and "hidden" not in served.needs:
        trained = train_rule(data, served, target=predicted, guards=guards, seed=seed, progress=progress)
    else:
        trained = train(
            data,
            target=predicted,
            kind=kind,
            layer_sets=None if layers is None else [layers],
            backend=backend,
            seed=seed,
            progress=progress,
        )
    return make_bundle(data, trained, path, name, guards=guards, tilt=tilt, rule=served), trained
