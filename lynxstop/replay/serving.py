"""Rules of bundles on recorded traces: fitted for serving, and scored as they would be live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.bundle import Bundle
from lynxstop.core.policy import StopPolicy
from lynxstop.replay.points import Recorded, Trace, read_points, replay, training_of
from lynxstop.rules import Rule
from lynxstop.rules.served import serve


class Featured(Recorded, Protocol):
    """Recorded data with features."""

    def features(self, layers: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Return features of all decision points, shape (cues, width)."""


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
    traces = read_points(data, rule.signals, logits, policy)
    fitted = rule.fit(training_of(traces, data.meta.budget or data.meta.max_tokens))
    return fitted, _spread(fitted, traces, len(logits))


def scores_of(bundle: Bundle, data: Featured) -> NDArray[np.float32]:
    """Scores of all recorded decision points under a bundle's probe and rule, shape (cues,).

    NaN where the bundle's rule abstains or its guards keep it from deciding.
    """
    if bundle.probe is None:
        logits = np.full(len(data.cues()), np.nan, np.float32)
    else:
        logits = bundle.probe.score(data.features(bundle.probe.layers))
    if bundle.policy.rule is None:
        return logits
    rule = bundle.policy.rule.rule
    traces = read_points(data, rule.signals, logits, bundle.policy.stop_policy())
    return _spread(rule, traces, len(logits))


def _spread(rule: Rule, traces: list[Trace], count: int) -> NDArray[np.float32]:
    scores = np.full(count, np.nan, np.float32)
    for trace, own in zip(traces, replay(rule, traces).scores, strict=True):
        scores[trace.rows] = own
    return scores
