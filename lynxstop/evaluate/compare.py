"""Every rule on the same traces: fitted on one part, certified on another, replayed on the third."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.probe import Probe
from lynxstop.calibration.certificate import Certificate
from lynxstop.calibration.losses import Loss, recorded_loss
from lynxstop.calibration.options import CalibrationOptions
from lynxstop.calibration.run import calibrate
from lynxstop.core.points import INTERVAL
from lynxstop.core.policy import StopPolicy
from lynxstop.errors import DataError
from lynxstop.evaluate.first_finish import first_finish
from lynxstop.evaluate.intervals import draws, ratio
from lynxstop.recordings.storage import Recording
from lynxstop.replay.exits import ExitTable
from lynxstop.replay.outcomes import Outcomes, summarize
from lynxstop.replay.parts import DataPart, parts_of
from lynxstop.replay.points import read_points, score_points, training_of
from lynxstop.rules import Rule

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and the numbers of finished and of all parts of it."""

CURVE = 40
"""Thresholds of a curve."""

Tables = dict[str, ExitTable]
Scores = dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]
"""Scores and costs of a rule at the points of each part, as `score_points` returns them."""


@dataclass(frozen=True)
class Line:
    """A rule's row, in plain numbers, and its curve on the test part."""

    row: dict[str, Any]
    published: dict[str, Any] | None
    curve: list[tuple[float, float, float]] = field(default_factory=list)
    """(net tokens per request, accuracy, disagreement); accuracy is NaN without gold."""


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns; `about` says on what."""

    about: dict[str, Any]
    lines: list[Line]


def compare(
    data: Recording,
    rules: Sequence[Rule],
    *,
    probe: Probe | None = None,
    policy: StopPolicy | None = None,
    points: int | None = None,
    risk: float = 0.05,
    confidence: float = 0.95,
    loss: str = "disagree",
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Comparison:
    """Fit, certify and replay rules.

    Parameters
    ----------
    data : Recording
        Recorded traces, none of which the probe has seen; split by problem into three parts.
    rules : sequence of Rule
    probe : Probe, optional
        Of a bundle; without one, a probe is trained on the training part when a rule needs it.
    policy : StopPolicy, optional
        Guards and kinds of decision points; all cues by default.
    points : int, optional
        Kinds of decision points in place of the policy's, bits of `lynxstop.core.points`.
    risk, confidence, loss
        What is certified, by `calibrate` with Learn then Test, for every rule on its own.
    seed : int
        Of the split and of the intervals.

    Raises
    ------
    ConfigError
        When there is no such loss.
    DataError
        When the data are too few, or were recorded with a limit of cues.
    """
    chosen = recorded_loss(loss, selective=False)
    if not data.whole:
        raise DataError(
            "Some decision points were recorded without their forced exit.",
            hint="Collect again without a limit of cues per trace.",
        )
    policy = policy or StopPolicy(exit_ids=data.meta.exit_ids)
    if points is not None:
        policy = replace(policy, points=points, every=data.meta.every if points & INTERVAL else 0)
    if policy.points & ~data.meta.points:
        raise DataError(
            "These decision points were not recorded.",
            hint="Name them under [points] in the recipe, and collect.",
        )
    parts = parts_of(data, seed)
    hidden = any("hidden" in rule.needs for rule in rules)
    logits = _logits(parts, probe, hidden, policy.points, seed, progress)
    keys = [key for rule in rules for key in rule.signals]
    total, done = len(data.traces()), 0

    def step() -> None:
        nonlocal done
        done += 1
        progress("signals", done, total)

    read = {name: read_points(part, keys, logits[name], policy, step=step) for name, part in parts.items()}
    budget = data.meta.budget or data.meta.max_tokens
    training = training_of(read["train"], budget, chosen)
    weights = draws(read["test"].problem_ids.tolist(), seed)
    lines: list[Line] = []
    outcomes: dict[str, Outcomes] = {}
    for number, rule in enumerate(rules):
        progress(rule.name, number, len(rules))
        fitted = rule.fit(training)
        scores = {name: score_points(fitted, table) for name, table in read.items()}
        certificate = _certify(read, scores, risk, confidence, chosen, seed)
        threshold = np.inf if certificate is None else certificate.threshold
        outcomes[rule.name] = _at(read, scores, threshold)
        row = _row(rule, threshold, certificate, outcomes[rule.name], weights)
        lines.append(Line(row, _published(fitted, read, scores, weights), _curve(read, scores)))
    if (finish := first_finish(data, parts, risk, 1 - confidence)) is not None:
        row, outcomes["first-finish"] = finish
        lines.append(
            Line(row | measure(outcomes["first-finish"], draws(parts["test"].problem_ids, seed)), None)
        )
    progress("rules", len(rules), len(rules))
    _against_best(lines, outcomes, weights)
    return Comparison(_about(read, outcomes, risk, confidence, loss, data, weights), lines)


def _logits(
    parts: dict[str, DataPart], probe: Probe | None, needed: bool, points: int, seed: int, progress: Progress
) -> dict[str, NDArray[np.float32]]:
    """Logits of every part's points; those of the training part by a probe that has not seen the problem."""
    if not needed:
        return {name: np.full(int(part.cue_rows.sum()), np.nan, np.float32) for name, part in parts.items()}
    if probe is not None:
        return {name: probe.score(part.features(probe.layers)) for name, part in parts.items()}
    from lynxstop.probes.train import train

    trained = train(
        parts["train"],
        layer_sets=[parts["train"].layers],
        seed=seed,
        points=points,
        progress=lambda done, total: progress("probe", done, total),
    )
    made = trained.probe
    return {
        name: trained.scores if name == "train" else made.score(part.features(made.layers))
        for name, part in parts.items()
    }


def _certify(
    read: Tables,
    scores: Scores,
    risk: float,
    confidence: float,
    loss: Loss,
    seed: int,
) -> Certificate | None:
    """Certify one rule; None when it never scores a training point, so that there is nothing to test."""
    known = _known(scores)
    if not len(known):
        return None
    found = calibrate(
        read["calibration"].scored(scores["calibration"][0], loss),
        CalibrationOptions(risks=[risk], confidence=confidence, loss=loss.name, seed=seed),
        train_scores=known,
        train_problems=read["train"].problem_ids.tolist(),
        train_prompts=[] if (prompts := read["train"].prompts) is None else prompts.tolist(),
    )
    return found.certificates[0]


def _row(
    rule: Rule,
    threshold: float,
    certificate: Certificate | None,
    done: Outcomes,
    weights: NDArray[np.float64],
) -> dict[str, Any]:
    certified = certificate is not None and not certificate.refused
    return {
        "rule": rule.name,
        "paper": rule.paper,
        "needs": "+".join(sorted(rule.needs)) or "tokens",
        "certified": certified,
        "threshold": float(threshold),
        "calibration_losses": None if certificate is None else certificate.losses,
        "calibration_problems": None if certificate is None else certificate.n,
        "risk_bound": None if certificate is None or not certified else certificate.bound,
    } | measure(done, weights)


def measure(done: Outcomes, weights: NDArray[np.float64]) -> dict[str, Any]:
    """Return outcomes in plain numbers."""
    about = summarize(done)
    saved, best = done.full - done.net, done.full - done.oracle
    share, net = ratio(saved, best, weights), ratio(saved, done.full, weights)
    return {
        "requests": about.n_problems,
        "accuracy_full": about.accuracy_full,
        "accuracy_early": about.accuracy_early,
        "harm": about.harm,
        "help": about.help,
        "disagree": about.disagree,
        "exits": about.exits,
        "trials": float(done.trials.mean()),
        "tokens_full": about.thinking_tokens_full,
        "tokens_gross": about.thinking_tokens_early,
        "tokens_net": int(done.net.sum()),
        "saved_gross": about.saved,
        "saved_net": net.value,
        "saved_net_low": net.low,
        "saved_net_high": net.high,
        "oracle_share": share.value,
        "oracle_share_low": share.low,
        "oracle_share_high": share.high,
    }


def _published(
    rule: Rule, read: Tables, scores: Scores, weights: NDArray[np.float64]
) -> dict[str, Any] | None:
    if rule.published is None:
        return None
    return {"threshold": rule.published} | measure(_at(read, scores, rule.published), weights)


def _at(read: Tables, scores: Scores, threshold: float) -> Outcomes:
    own, costs = scores["test"]
    return read["test"].at(own, threshold, costs)


def _known(scores: Scores) -> NDArray[np.float32]:
    own, _ = scores["train"]
    known: NDArray[np.float32] = own[~np.isnan(own)]
    return known


def _curve(read: Tables, scores: Scores) -> list[tuple[float, float, float]]:
    known = _known(scores)
    if not len(known):
        return []
    points = []
    for threshold in np.unique(np.quantile(known.astype(np.float64), np.linspace(0.0, 1.0, CURVE))):
        done = _at(read, scores, float(threshold))
        early = done.right_early[done.graded]
        points.append(
            (
                float(done.net.mean()),
                float(early.mean()) if len(early) else float("nan"),
                float(done.disagree.mean()),
            )
        )
    return points


def _against_best(lines: list[Line], outcomes: dict[str, Outcomes], weights: NDArray[np.float64]) -> None:
    """Add to every row how much less it saves than the best certified one, paired by problem."""
    certified = [line for line in lines if line.row["certified"] and line.row["rule"] != "first-finish"]
    best = max(certified, key=lambda line: float(line.row["saved_net"]), default=None)
    for line in lines:
        one = outcomes[line.row["rule"]]
        other = None if best is None else outcomes[best.row["rule"]]
        if other is None or len(one.net) != len(other.net):
            line.row.update(behind_best=None, behind_best_low=None, behind_best_high=None)
            continue
        less = ratio(one.net - other.net, one.full, weights)
        line.row.update(behind_best=less.value, behind_best_low=less.low, behind_best_high=less.high)


def _about(
    read: Tables,
    outcomes: dict[str, Outcomes],
    risk: float,
    confidence: float,
    loss: str,
    data: Recording,
    weights: NDArray[np.float64],
) -> dict[str, Any]:
    one = next(iter(outcomes.values()))
    ceiling = ratio(one.full - one.oracle, one.full, weights)
    return {
        "data": data.digest,
        "risk": risk,
        "confidence": confidence,
        "loss": loss,
        "traces": {name: len(table.trace_ids) for name, table in read.items()},
        "problems": {name: len(np.unique(table.problem_ids)) for name, table in read.items()},
        "budget": data.meta.budget,
        "oracle_saved": ceiling.value,
        "oracle_saved_low": ceiling.low,
        "oracle_saved_high": ceiling.high,
        "oracle_tokens": int(one.oracle.sum()),
        "tokens_full": int(one.full.sum()),
    }
