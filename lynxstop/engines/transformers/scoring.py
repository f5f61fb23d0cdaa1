"""Scores on the model's device; a failure to score never fails a request."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from lynxstop.engines.torch.device_probe import DeviceProbe
from lynxstop.engines.transformers.taps import Taps

logger = logging.getLogger(__name__)


class ProbeScorer:
    """Scores rows by taps and probe; failures are counted and logged once, never raised.

    Parameters
    ----------
    taps : Taps
        Source of the features.
    probe : DeviceProbe, optional
        Scores them; None only reads features.

    Attributes
    ----------
    failures : int
        Cues that got no score, or one that is not a number.
    """

    def __init__(self, taps: Taps, probe: DeviceProbe | None) -> None:
        self._taps = taps
        self._probe = probe
        self.failures = 0

    def score(self, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Features (rows, width) and logits (rows,) of the last forward pass, or None, on the device."""
        try:
            features = self._taps.read(rows)
            return features, None if self._probe is None else self._probe.score(features)
        except Exception as error:
            self._fail(len(rows), type(error).__name__)
            return None, None

    def check(self, scores: Sequence[float]) -> None:
        """Count fetched scores that are not numbers."""
        if lost := sum(score != score for score in scores):
            self._fail(lost, "features that are not finite")

    def _fail(self, cues: int, reason: str) -> None:
        if not self.failures:
            logger.warning("Scoring failed (%s); these cues are not acted on. Logged once.", reason)
        self.failures += cues
