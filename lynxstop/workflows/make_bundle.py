"""From a trained probe, or a rule, to a bundle on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lynxstop.artifacts import atomic
from lynxstop.artifacts.bundle import (
    Bundle,
    Policy,
    ServedRule,
    ServedSampling,
    TrainingScores,
    write_bundle,
)
from lynxstop.artifacts.card import card
from lynxstop.artifacts.provenance import provenance
from lynxstop.core.points import CUE
from lynxstop.core.policy import GUARDS
from lynxstop.errors import ConfigError
from lynxstop.probes.target import LOSS_OF
from lynxstop.probes.train import TrainedProbe
from lynxstop.recordings.storage import Recording
from lynxstop.replay.exits import read_exits
from lynxstop.replay.serving import fit_rule
from lynxstop.replay.thinned import guards_of
from lynxstop.replay.tilt import choose_tilt, lowered
from lynxstop.rules.base import Rule
from lynxstop.workflows.train_rule import TrainedRule, policy_under


def make_bundle(
    data: Recording,
    trained: TrainedProbe | TrainedRule,
    path: Path,
    name: str,
    *,
    guards: Mapping[str, Any] = GUARDS,
    tilt: float | None = None,
    rule: Rule | None = None,
) -> Bundle:
    """Write a bundle that is not calibrated yet.

    Parameters
    ----------
    data : Recording
        The training data: its settings become the policy.
    trained : TrainedProbe or TrainedRule
        A trained rule makes a bundle without a probe.
    path : Path
        Folder to write; an existing bundle there is replaced.
    name : str
        Title of the card.
    guards : mapping
        Those of `lynxstop.core.policy.GUARDS` that the policy has; a rule was trained under the same. Where
        the data were recorded with guards, these are the policy's.
    tilt : float, optional
        Of the policy; None takes the one that saves most on the training data, see `lynxstop.replay.tilt`.
    rule : Rule, optional
        Makes the score beside the trained probe; it is fitted here. None serves the probe's logit at cues.

    Raises
    ------
    ConfigError
        When the rule cannot be served, or the data were recorded with other guards.
    """
    meta = data.meta
    chosen = policy_under(guards, meta)
    policy = Policy(
        name=name,
        fingerprint=meta.fingerprint,
        engine=meta.engine,
        dtype=meta.dtype,
        sampling=ServedSampling(
            temperature=meta.temperature,
            top_p=meta.top_p,
            top_k=meta.top_k,
            max_tokens=meta.max_tokens,
            answer_tokens=meta.answer_tokens,
        ),
        cue_words=meta.cue_words,
        cue_paragraph=meta.cue_paragraph,
        think_open=meta.think_open,
        think_close=meta.think_close,
        exit_text=meta.exit_text,
        exit_ids=meta.exit_ids,
        cut=meta.cut,
        **chosen.guards,
        budget=meta.budget,
        grader=meta.grader,
        target=trained.target,
        probe_sha256=None,
        training_problems_sha256=hashlib.sha256("\n".join(sorted(trained.problem_ids)).encode()).hexdigest(),
        training_data_sha256=data.digest,
        provenance=provenance(),
    )
    found = trained.scores
    probe, served = (None, trained.rule) if isinstance(trained, TrainedRule) else (trained.probe, None)
    if rule is not None and served is None:
        served, found = fit_rule(rule, data, trained.scores, chosen)
    if served is None and guards_of(meta) != GUARDS and meta.points != CUE:
        raise ConfigError(
            "A probe is served at cues, but the guards of these data counted other decision points as well.",
            hint="Serve a rule, such as combined, or collect with cues alone.",
        )
    if served is not None:
        made = ServedRule(
            name=served.name, constants=served.constants(), points=meta.points, every=meta.every
        )
        policy = policy.model_copy(update={"rule": made})
    exits = read_exits(data, chosen)
    if tilt is None:
        tilt = choose_tilt(found, exits, LOSS_OF[trained.target])
    found = lowered(found, exits, tilt)
    policy = policy.model_copy(update={"tilt": tilt})
    known = found[np.isfinite(found)]
    scores = TrainingScores(scores=known, problems=trained.problem_ids, prompts=data.prompts)
    bundle = write_bundle(path, policy, probe, scores, trained.report())
    atomic.write_text(path / "README.md", card(bundle.policy, trained.report()))
    return bundle
