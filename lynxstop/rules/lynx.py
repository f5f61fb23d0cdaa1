"""LYNX and other rules on the logit of the probe on hidden states."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from lynxstop.rules.base import Point, Rule, Score


@dataclass(frozen=True)
class Lynx(Rule):
    """The probe's logit as it is (Akgül et al. 2025, arXiv 2512.05325), per request instead of per cue."""

    name = "lynx"
    uses = frozenset({"hidden"})

    def start(self) -> Score:
        """Begin a request."""
        return lambda point: point.logit


@dataclass(frozen=True)
class Smoothed(Rule):
    """Mean logit of the last steps: Thought Calibration (2505.18404) and ORCA (2604.01170)."""

    name = "thought-calibration"
    paper = "2505.18404"
    uses = frozenset({"hidden"})
    steps: int = 10

    def start(self) -> Score:
        """Begin a request."""
        last: deque[float] = deque(maxlen=self.steps)

        def score(point: Point) -> float:
            if not math.isnan(point.logit):
                last.append(point.logit)
            return math.fsum(last) / len(last) if last else math.nan

        return score


@dataclass(frozen=True)
class QExit(Rule):
    """The probability to have exited by now, 1 - prod(1 - p_i), exceeds q (PALBERT).

    The score is the sum of -log(1 - p_i), so that nothing saturates: it exceeds -log(1 - q).
    """

    name = "q-exit"
    paper = "PALBERT"
    uses = frozenset({"hidden"})
    q: float = 0.5

    @property
    def published(self) -> float:
        """The limit that belongs to q."""
        return -math.log1p(-self.q)

    def start(self) -> Score:
        """Begin a request."""
        total = 0.0

        def score(point: Point) -> float:
            nonlocal total
            if not math.isnan(point.logit):
                total += float(np.logaddexp(0.0, point.logit))
            return total

        return score
