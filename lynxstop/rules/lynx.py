"""LYNX: the probe on hidden states, at cues."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

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
