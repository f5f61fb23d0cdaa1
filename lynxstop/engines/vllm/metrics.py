"""Counters on vLLM's own /metrics: counted on the device, fetched by a thread of their own."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lynxstop.engines.vllm.session_batch import COUNTERS

INTERVAL = 1.0
"""Seconds between two fetches of the device's counters."""

_HELP = {
    "cues": "Cues, or other decision points, seen whole inside thinking blocks.",
    "scored": "Scores evaluated.",
    "not_finite": "Scores that were not finite; their cues are never acted on.",
    "exits_score": "Stops decided by a score, forced or in shadow.",
    "exits_budget": "Stops decided by the thinking budget, forced or in shadow.",
    "exits_loop": "Stops because the thinking repeated itself, forced or in shadow.",
    "exit_tokens": "Thinking tokens of stopped requests at their stop.",
    "refused": "Forced sequences the engine did not follow.",
    "errors": "Errors inside lynxstop; their requests went on untouched.",
    "lost": "Requests whose state, or statistics, were lost; they think to the end.",
    "kernel_failures": "Fused kernels that could not be launched; small ones serve instead.",
    "dropped": "Recorded rows lost because a file could not be written.",
    "disabled": "1 when a bundle is configured but lynxstop is not active.",
}


_OWN = ("errors", "kernel_failures", "dropped", "disabled")
"""What happens to a process; everything else happens to requests, which several processes may serve."""


class PluginMetrics:
    """Prometheus counters of one model.

    Parameters
    ----------
    model : str
        Value of the label `model_name`, as on vLLM's own metrics.
    counters : Tensor, optional
        The device's counters, fetched every `INTERVAL` seconds while steps are taken.
    leads : bool
        Whether this process shows what happens to requests: one rank of those that serve the same ones.

    Attributes
    ----------
    totals : dict
        The counts so far, as last fetched.
    stepped : bool
        To be set at every step: something may have been counted.
    """

    def __init__(self, model: str, counters: Tensor | None = None, *, leads: bool = True) -> None:
        from prometheus_client import REGISTRY, Counter

        self.totals = dict.fromkeys((*_HELP, "uncertified"), 0)
        self.stepped = False
        self._counters = {}
        for name, text in _HELP.items():
            full = f"lynxstop:{name}"
            counter = REGISTRY._names_to_collectors.get(full) or Counter(full, text, ["model_name"])
            self._counters[name] = counter.labels(model_name=model)  # type: ignore[attr-defined]
        full = "lynxstop:uncertified"
        self._uncertified: Any = REGISTRY._names_to_collectors.get(full) or Counter(
            full, "Requests outside the certified conditions, by what departs.", ["model_name", "cause"]
        )
        self._model = model
        self._leads = leads
        self._device = counters
        self._fetched = torch.zeros(len(COUNTERS), dtype=torch.int64)
        self._lock = threading.Lock()
        if counters is not None:
            watch = threading.Thread(
                target=_fetch_forever, args=(weakref.ref(self),), name="lynxstop", daemon=True
            )
            watch.start()

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter of the host."""
        self.totals[name] += amount
        if self._leads or name in _OWN:
            self._counters[name].inc(amount)

    def count_uncertified(self, causes: Sequence[str]) -> None:
        """Count a request outside the certified conditions, once under each of its causes."""
        self.totals["uncertified"] += 1
        for cause in causes if self._leads else ():
            self._uncertified.labels(model_name=self._model, cause=cause).inc()

    def fetch(self) -> None:
        """Fetch the device's counters; the step under way is not waited for."""
        if self._device is None:
            return
        with self._lock:
            self.stepped = False
            now = _copy(self._device)
            grown = (now - self._fetched).tolist()
            self._fetched = now
            for name, amount in zip(COUNTERS, grown, strict=True):
                if amount:
                    self.count(name, amount)


def _copy(counters: Tensor) -> Tensor:
    if counters.device.type == "cpu":
        return counters.clone()
    with torch.Stream(device=counters.device):
        return counters.cpu()


def _fetch_forever(owner: weakref.ref[PluginMetrics]) -> None:
    pause = threading.Event()
    while True:
        pause.wait(INTERVAL)
        metrics = owner()
        if metrics is None:
            return
        if metrics.stepped:
            metrics.fetch()
        del metrics
