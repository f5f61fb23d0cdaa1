"""Counters on vLLM's own /metrics: counted on the device, fetched now and then."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from lynxstop.engines.vllm.sessions import COUNTERS

INTERVAL = 1.0
"""Seconds between two fetches of the device's counters."""

_HELP = {
    "cues": "Cues seen whole inside thinking blocks.",
    "scored": "Scores evaluated.",
    "not_finite": "Scores that were not finite; their cues are never acted on.",
    "exits_score": "Stops decided by a score, forced or in shadow.",
    "exits_budget": "Stops decided by the thinking budget, forced or in shadow.",
    "exit_tokens": "Thinking tokens of stopped requests at their stop.",
    "refused": "Forced sequences the engine did not follow.",
    "errors": "Errors inside lynxstop; their requests went on untouched.",
    "lost": "Requests resumed without their state; they think to the end.",
    "disabled": "1 when a bundle is configured but lynxstop is not at work.",
}


class Metrics:
    """Prometheus counters of one model.

    Parameters
    ----------
    model : str
        Value of the label `model_name`, as on vLLM's own metrics.

    Attributes
    ----------
    totals : dict
        The counts so far, as last fetched.
    """

    def __init__(self, model: str) -> None:
        from prometheus_client import REGISTRY, Counter

        self.totals = dict.fromkeys(_HELP, 0)
        self._counters = {}
        for name, text in _HELP.items():
            full = f"lynxstop:{name}"
            known = REGISTRY._names_to_collectors.get(full) or REGISTRY._names_to_collectors.get(f"{full}_total")
            counter = known or Counter(full, text, ["model_name"])
            self._counters[name] = counter.labels(model_name=model)
        self._fetched = torch.zeros(len(COUNTERS), dtype=torch.int64)
        self._pending: tuple[Tensor, torch.Event | None] | None = None
        self._due = 0.0

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter of the host."""
        self.totals[name] += amount
        self._counters[name].inc(amount)

    def tick(self, counters: Tensor) -> None:
        """Fetch the device's counters when that is due; never waits for the device."""
        if self._pending is not None:
            copy, event = self._pending
            if event is None or event.query():
                self._pending = None
                self._add(copy)
        elif (now := time.monotonic()) >= self._due:
            self._due = now + INTERVAL
            self._pending = _copy(counters)

    def flush(self, counters: Tensor) -> None:
        """Fetch the device's counters now, waiting for the device."""
        self._pending = None
        self._add(counters.cpu())

    def _add(self, counters: Tensor) -> None:
        grown = (counters - self._fetched).tolist()
        self._fetched = counters.clone()
        for name, amount in zip(COUNTERS, grown, strict=True):
            if amount:
                self.count(name, amount)


def _copy(counters: Tensor) -> tuple[Tensor, torch.Event | None]:
    if counters.device.type == "cpu":
        return counters.clone(), None
    copy = torch.empty(counters.shape, dtype=counters.dtype, pin_memory=True)
    copy.copy_(counters, non_blocking=True)
    event = torch.Event()
    event.record()
    return copy, event
