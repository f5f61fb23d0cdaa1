"""A logits processor of vLLM that sleeps in each step, so that a small model takes the time of a usual one.

As with a model on a GPU, the processors are free while a step runs.
"""

from __future__ import annotations

import os
import time
from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor

PACE = "STEP_SECONDS"
"""The environment variable with the seconds of a step."""


class Paced(LogitsProcessor):
    """Sleeps."""

    def __init__(self, config: Any, device: Any, is_pin_memory: bool) -> None:
        self._seconds = float(os.environ[PACE])

    def is_argmax_invariant(self) -> bool:
        """Run for greedy requests too."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Keep nothing."""

    def apply(self, logits: Any) -> Any:
        """Sleep."""
        time.sleep(self._seconds)
        return logits
