"""Train a rule that reads no hidden states: for engines, and servers, that show none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lynxstop.core.policy import GUARDS, StopPolicy
from lynxstop.errors import ConfigError, DataError
from lynxstop.probes.evidence import Evidence, platt
from lynxstop.probes.rivals import alone, rival_signals
from lynxstop.probes.search import area, split
from lynxstop.probes.target import LOSS_OF, Target, target_named
from lynxstop.recordings.schema import Meta
from lynxstop.recordings.storage import Recording
from lynxstop.replay.exits import ExitTable
from lynxstop.replay.points import read_points, score_points, training_of
from lynxstop.replay.thinned import guards_of
from lynxstop.rules.base import Rule
from lynxstop.rules.served import serve

DEFAULT_RULE = "logprob-probe"
"""What is fitted on data without hidden states, unless another rule is named."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TrainedRule(Evidence):
    """A fitted rule and the evidence for it, `lynxstop.probes.evidence.Evidence`.

    Parameters
    ----------
    rule : Rule
        Fitted on all decision points.
    """

    rule: Rule

    def report(self) -> dict[str, Any]:
        """All but arrays, ready for JSON and for the bundle's card."""
        return {
            "kind": "rule",
            "rule": self.rule.name,
            "signals": list(self.rule.signals),
            "layers": [],
            "search": [],
        } | self.summary()


def policy_under(guards: Mapping[str, Any], meta: Meta) -> StopPolicy:
    """Return the policy, without levels, that decision points of a recording are chosen by.

    Guards that are left out, or have their value in `GUARDS`, are those of the recording.

    Raises
    ------
    ConfigError
        When the recording was made under other guards than those asked for.
    """
    asked = {**GUARDS, **guards}
    recorded = guards_of(meta)
    if recorded != GUARDS:
        if other := [name for name, value in asked.items() if value not in (GUARDS[name], recorded[name])]:
            raise ConfigError(
                f"The data were recorded with other guards: {', '.join(other)}.",
                hint="Leave them out to serve those of the data, or collect with the guards that are wanted.",
            )
        asked = recorded
    return StopPolicy(meta.exit_ids, budget=meta.budget, points=meta.points, every=meta.every, **asked)


def train_rule(
    data: Recording,
    rule: Rule,
    *,
    target: Target = "agrees",
    guards: Mapping[str, Any] = GUARDS,
    folds: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TrainedRule:
    """Fit a rule, and measure it on problems that it was not fitted on.

    Parameters
    ----------
    data : Recording
        Recorded traces of the training split; their hidden states, if any, are not read.
    rule : Rule
        One that needs neither hidden states nor trial answers.
    target : {"agrees", "right"}
        Predict that the answer forced at the point equals the full trace's, or that it equals gold.
    guards : mapping
        Those of `lynxstop.core.policy.GUARDS` that the policy has.
    folds : int
        Parts of the cross-validation, made of whole problems.
    seed : int
        Fixes the parts.
    progress : callable, optional
        Called with the numbers of finished and of all steps.

    Raises
    ------
    ConfigError
        When the rule needs hidden states or trial answers, or on an unknown target.
    DataError
        When the rule scores no point, only one outcome occurs, or there are too few problems for the folds.
    """
    target_named(target)
    if "hidden" in serve(rule).rule.needs:
        raise ConfigError(
            f"The rule {rule.name!r} reads hidden states; it is served together with a probe.",
            hint="Record layers and train a probe, or name a rule such as logprob-probe.",
        )
    meta, cues = data.meta, data.cues()
    policy = policy_under(guards, meta)
    steps, done, budget = folds + 2, 0, meta.budget or meta.max_tokens

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    def fitted(to: ExitTable) -> Rule:
        made = rule.fit(training_of(to, budget, LOSS_OF[target]))
        step()
        return made

    table = read_points(data, rule.signals, np.full(len(cues), np.nan, np.float32), policy)
    truths = {"agrees": table.agrees, "right": table.right}[target]
    unknown = np.bincount(table.owners, np.isnan(truths), len(table.trace_ids)) > 0
    table, truth = table.select(~unknown), truths[~unknown[table.owners]] == 1
    step()
    rows, owners = table.rows, table.problem_ids[table.owners]
    scores = np.full(len(cues), np.nan, np.float32)
    for _, test in split(truth, owners, folds, seed):
        held_out = np.isin(table.problem_ids, owners[test])
        own = table.select(held_out)
        scores[own.rows], _ = score_points(fitted(table.select(~held_out)), own)
    known = np.isfinite(scores[rows])
    if len(set(truth[known].tolist())) < 2:
        raise DataError(
            f"The rule {rule.name!r} scores {int(known.sum())} of {len(rows)} points, all of one outcome.",
            hint="Collect with an engine that shows log-probabilities, more problems, or name another rule.",
        )
    rows, truth, owners = rows[known], truth[known], owners[known]
    parts = split(truth, owners, folds, seed)
    return TrainedRule(
        rule=fitted(table),
        auc=area(truth, scores[rows]),
        rivals={name: alone(signal[rows], truth, parts) for name, signal in rival_signals(cues).items()},
        platt=platt(scores[rows], truth),
        scores=scores,
        target=target,
        cues=len(rows),
        problems=len(set(owners.tolist())),
        rate=float(truth.mean()),
        problem_ids=data.problem_ids,
    )
