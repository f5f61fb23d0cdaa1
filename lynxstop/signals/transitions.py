"""The other reading of RPDI: how much more frequent high-entropy tokens have become."""

from __future__ import annotations

import math

from lynxstop.core.statistics import Statistics
from lynxstop.signals.base import Plain
from lynxstop.signals.rpdi import PathDeviation


class TransitionRate(Plain):
    """Share of high-entropy tokens among the last W, against their share among all thinking tokens so far.

    One description of RPDI-EE counts *transition tokens*, at which the entropy exceeds a cut (2.5 nats is
    named), where the other averages entropies. Here every token above the cut counts: a stream of token ids
    does not say which of them read like a transition.

    Parameters
    ----------
    window : int
        W.
    cut : float
        Entropy above which a token counts, in nats.

    References
    ----------
    Guan et al. 2026, arXiv 2603.14251 (RPDI-EE).
    """

    def __init__(self, window: int = 512, cut: float = 2.5) -> None:
        self._ratio = PathDeviation(window)
        self._cut = cut

    def step(self, token: int, statistics: Statistics) -> None:
        """Read one thinking token."""
        if not math.isnan(statistics.entropy):
            high = 1.0 if statistics.entropy > self._cut else 0.0
            self._ratio.step(token, statistics._replace(entropy=high))

    def value(self) -> float:
        """Return the ratio; NaN before token W, and before the first high-entropy token."""
        return self._ratio.value()
