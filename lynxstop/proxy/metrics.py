"""Everything the proxy counts, for Prometheus; no request is identified."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from lynxstop._version import __version__
from lynxstop.core.exits import Mode, Reason

if TYPE_CHECKING:
    from lynxstop.proxy.audit_metrics import AuditMetrics

SHORT = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Buckets of a decision, in seconds."""

LONG = (
    0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0,
    1000.0,
)  # fmt: skip
"""Buckets of a request, of its first chunk and of a silence, in seconds."""

TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Buckets of a number of tokens."""


class Metrics:
    """Counters of one proxy.

    With PROMETHEUS_MULTIPROC_DIR set before this module is imported, the workers count into that folder and
    every one of them shows the sum.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lynxstop_requests", "Requests by how they ended.", ["route", "outcome"], registry=registry
        )
        self.active = Gauge(
            "lynxstop_requests_active",
            "Requests under way.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.request_seconds = Histogram(
            "lynxstop_request_seconds", "Time of a request.", ["route"], buckets=LONG, registry=registry
        )
        self.first_chunk_seconds = Histogram(
            "lynxstop_first_chunk_seconds",
            "Time to the first byte of the answer's body: the first event of a stream, or the whole answer.",
            ["route", "stream"],
            buckets=LONG,
            registry=registry,
        )
        self.silence_seconds = Histogram(
            "lynxstop_silence_seconds",
            "Longest time without an event inside a watched stream, by whether it was stopped.",
            ["stopped"],
            buckets=LONG,
            registry=registry,
        )
        self.refused = Counter(
            "lynxstop_refused", "Requests that the proxy refused, by code.", ["code"], registry=registry
        )
        self.upstream_errors = Counter(
            "lynxstop_upstream_errors", "Failures of the server, by code.", ["code"], registry=registry
        )
        self.upstream_aborts = Counter(
            "lynxstop_upstream_aborts",
            "Answers of the server that were closed before their end, by cause.",
            ["cause"],
            registry=registry,
        )
        self.exits = Counter(
            "lynxstop_exits", "Stops decided, by reason and mode.", ["reason", "mode"], registry=registry
        )
        self.exit_thinking_tokens = Histogram(
            "lynxstop_exit_thinking_tokens",
            "Thinking tokens in front of an exit.",
            buckets=TOKENS,
            registry=registry,
        )
        self.cues = Counter("lynxstop_cues", "Cues seen inside thinking.", registry=registry)
        self.thinking_tokens = Counter(
            "lynxstop_thinking_tokens",
            "Thinking tokens of watched requests that went through.",
            ["mode"],
            registry=registry,
        )
        self.tokens_saved = Counter(
            "lynxstop_tokens_saved_estimate",
            "Thinking tokens that exits saved, or would have in shadow, estimated.",
            ["mode"],
            registry=registry,
        )
        self.upstream_tokens = Counter(
            "lynxstop_upstream_tokens",
            "Tokens that the server generated for watched requests, those after a truncation included.",
            registry=registry,
        )
        self.refilled_tokens = Counter(
            "lynxstop_refilled_tokens",
            "Tokens that continuations were given as their prompts, cached ones included.",
            registry=registry,
        )
        self.continuations = Counter(
            "lynxstop_continuations", "Continuations requested after an exit.", ["outcome"], registry=registry
        )
        self.continuation_retries = Counter(
            "lynxstop_continuation_retries",
            "Continuations asked for again before their first token.",
            registry=registry,
        )
        self.passthrough = Counter(
            "lynxstop_passthrough",
            "Requests passed through untouched, by cause.",
            ["cause"],
            registry=registry,
        )
        self.uncertified = Counter(
            "lynxstop_uncertified",
            "Requests outside the certified conditions, by what departs.",
            ["cause"],
            registry=registry,
        )
        self.recorded = Counter(
            "lynxstop_shadow_recorded",
            "Shadow requests by what came of recording.",
            ["outcome"],
            registry=registry,
        )
        self.decision_seconds = Histogram(
            "lynxstop_decision_seconds",
            "Time to decide on an event, as the mean of each request.",
            buckets=SHORT,
            registry=registry,
        )
        self.risk_target = Gauge(
            "lynxstop_risk_target",
            "Level of requests that name none; 0 when off.",
            registry=registry,
            multiprocess_mode="livemax",
        )

        self.model_state = Gauge(
            "lynxstop_model_state",
            "1 for what happens to the requests for a model: watched, or why they pass through.",
            ["model", "state"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.backend_up = Gauge(
            "lynxstop_backend_up",
            "1 while the server of a backend answers.",
            ["backend"],
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.reloads = Counter(
            "lynxstop_reloads",
            "Configurations read again, by what came of it.",
            ["outcome"],
            registry=registry,
        )
        self.build_info = Gauge(
            "lynxstop_build_info",
            "1 for the version of the proxy.",
            ["version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.build_info.labels(__version__).set(1)
        # An alert sees a rise only in what has been exported before: these are shown at 0 from the start.
        for reason, mode in product(Reason, Mode):
            self.exits.labels(str(reason), str(mode))
        for outcome in ("done", "refused"):
            self.reloads.labels(outcome)
        self._states: dict[str, dict[str, str]] = {}

    @cached_property
    def audits(self) -> AuditMetrics:
        """What is counted about audits; exported once it has been asked for."""
        from lynxstop.proxy.audit_metrics import AuditMetrics

        return AuditMetrics(self.registry)

    def show_states(self, backend: str, states: Mapping[str, str], *, up: bool) -> None:
        """Show whether a backend answers, and what happens to the requests for each of its models."""
        self.backend_up.labels(backend).set(up)
        for model, state in self._states.get(backend, {}).items():
            self.model_state.labels(model, state).set(0)
        self._states[backend] = dict(states)
        for shown in self._states.values():
            for model, state in shown.items():
                self.model_state.labels(model, state).set(1)

    def forget_backends(self, kept: Collection[str]) -> None:
        """Show no more of the backends that are gone; with several workers their files keep them, as NaN."""
        for backend in self._states.keys() - set(kept):
            self.show_states(backend, {}, up=False)
            del self._states[backend]
            if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
                # 0 would be a server that does not answer.
                self.backend_up.labels(backend).set(math.nan)
            else:
                self.backend_up.remove(backend)

    def render(self) -> bytes:
        """Write all metrics as Prometheus reads them, those of all workers summed up."""
        return generate_latest(self.summed())

    def summed(self) -> CollectorRegistry:
        """Return what to read all metrics from, those of all workers summed up."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

    def close(self) -> None:
        """Take this process's gauges out of the sum."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


def forget_the_dead() -> None:
    """Take the gauges of workers that were killed out of the sum; what they counted stays in it."""
    for path in Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")).glob("gauge_live*_*.db"):
        number = int(path.stem.rpartition("_")[2])
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(number)  # type: ignore[no-untyped-call]
        except PermissionError:
            continue
