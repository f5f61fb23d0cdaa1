"""Rules of bundles on recorded traces: fitted for serving, and scored as they would be live."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.bundle import Bundle
from lynxstop.calibration.losses import LOSSES
from lynxstop.core.policy import StopPolicy
from lynxstop.replay.exits import ExitTable, read_exits
from lynxstop.replay.parts import Recorded
from lynxstop.replay.points import read_points, score_points, training_of
from lynxstop.replay.tilt import lowered
from lynxstop.rules import Rule
from lynxstop.rules.served import serve


def fit_rule(
    rule: Rule, data: Recorded, logits: NDArray[np.float32], policy: StopPolicy
) -> tuple[Rule, NDArray[np.float32]]:
    """Fit a rule that is to be served.

    Parameters
    ----------
    rule : Rule
    data : Recorded
        The training data.
    logits : float32, shape (cues,)
        Of a probe that has not seen the problem: out of fold.
    policy : StopPolicy
        Guards and kinds of decision points.

    Returns
    -------
    (rule, scores)
        The fitted rule, and its scores on the training data, shape (cues,); NaN where it abstains.

    Raises
    ------
    ConfigError
        When the rule needs trial answers, which are not taken live.
    """
    serve(rule)
    table = read_points(data, rule.signals, logits, policy)
    fitted = rule.fit(training_of(table, data.meta.budget or data.meta.max_tokens, LOSSES["disagree"]))
    return fitted, _by_row(fitted, table, len(logits))


def scores_of(bundle: Bundle, data: Recorded) -> NDArray[np.float32]:
    """Scores of all recorded decision points under a bundle's probe, rule and tilt, shape (cues,).

    NaN where the bundle's rule abstains or its guards keep it from deciding.
    """
    if bundle.probe is None:
        logits = np.full(len(data.cues()), np.nan, np.float32)
    else:
        logits = bundle.probe.score(data.features(bundle.probe.layers))
    policy = bundle.policy.stop_policy()
    if bundle.policy.rule is None:
        return lowered(logits, read_exits(data, policy), policy.tilt) if policy.tilt else logits
    rule = bundle.policy.rule.rule
    table = read_points(data, rule.signals, logits, policy)
    return lowered(_by_row(rule, table, len(logits)), table, policy.tilt)


def _by_row(rule: Rule, table: ExitTable, count: int) -> NDArray[np.float32]:
    scores = np.full(count, np.nan, np.float32)
    scores[table.rows], _ = score_points(rule, table)
    return scores
