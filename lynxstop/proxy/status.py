"""The state of a proxy as JSON, made from its metrics and what it remembers; no content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from prometheus_client.samples import Sample

from lynxstop._version import __version__
from lynxstop.proxy.backends import Backend
from lynxstop.proxy.chat_routes import ChatRoutes
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.examination import Service
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.running import Running
from lynxstop.proxy.service import Services

Json = dict[str, Any]

_ALARMS = frozenset({"lynxstop_alarm", "lynxstop_risk_changed", "lynxstop_monitor_unknown"})
"""Gauges that are above 0 while something is wrong with a level; only where exits are audited."""


class ShownBackend(Protocol):
    """A backend, as far as its state is shown."""

    @property
    def services(self) -> Services:
        """What was found out about its models."""

    @property
    def by_chat(self) -> ChatRoutes:
        """How its requests with tools, forms and media are answered."""

    @property
    def backend(self) -> Backend:
        """Its server."""


def status(config: ProxyConfig, metrics: Metrics, parts: Sequence[ShownBackend], running: Running) -> Json:
    """Describe a proxy: counts of all worker processes, models and requests of this one."""
    samples = [sample for family in metrics.summed().collect() for sample in family.samples]
    mode = config.policy.mode
    thought = _by(samples, "lynxstop_thinking_tokens_total", "mode").get(mode, 0.0)
    saved = _by(samples, "lynxstop_tokens_saved_estimate_total", "mode").get(mode, 0.0)
    # In shadow nothing is stopped, so what went through holds what would have been saved.
    all_thinking = thought if mode == "shadow" else thought + saved
    risk = _one(samples, "lynxstop_risk_target") or None
    return {
        "version": __version__,
        "workers": config.serve.workers,
        "mode": mode,
        "risk": risk,
        "bundle": any(part.services.policy is not None for part in parts),
        "savings": {
            "thinking_tokens": thought,
            "saved_estimate": saved,
            "share": saved / all_thinking if all_thinking else None,
        },
        "requests": {
            "active": _one(samples, "lynxstop_requests_active"),
            "by_outcome": _by(samples, "lynxstop_requests_total", "outcome"),
        },
        "exits": {
            "by_reason": _by(samples, "lynxstop_exits_total", "reason"),
            "by_position": _histogram(samples, "lynxstop_exit_thinking_tokens"),
        },
        "passed_through": _by(samples, "lynxstop_passthrough_total", "cause"),
        "uncertified": _by(samples, "lynxstop_uncertified_total", "cause"),
        "upstream_errors": _by(samples, "lynxstop_upstream_errors_total", "code"),
        "alarms": _alarms(samples),
        "live_risk": _live(samples),
        "subgroups": [
            {"backend": part.backend.name, **one} for part in parts for one in part.services.subgroups(risk)
        ],
        "models": [
            {
                "name": name,
                "backend": part.backend.name,
                **_state(service),
                "kinds": part.by_chat.ways(name),
            }
            for part in parts
            for name, service in sorted(part.services.examined().items())
        ],
        "running": running.listed(),
        "decisions": list(running.decisions),
    }


def _one(samples: Iterable[Sample], name: str) -> float:
    return sum(sample.value for sample in samples if sample.name == name)


def _by(samples: Iterable[Sample], name: str, label: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for sample in samples:
        if sample.name == name and sample.value:
            found[sample.labels[label]] = found.get(sample.labels[label], 0.0) + sample.value
    return found


def _histogram(samples: Iterable[Sample], name: str) -> list[Json]:
    """Counts per bucket; the last has no upper end."""
    found, before = [], 0.0
    for sample in samples:
        if sample.name == f"{name}_bucket":
            upper = float(sample.labels["le"])
            found.append({"up_to": None if upper == float("inf") else upper, "count": sample.value - before})
            before = sample.value
    return found


def _alarms(samples: Iterable[Sample]) -> list[str]:
    """Names of the gauges of alarms that are raised, with their labels."""
    return [
        " ".join([sample.name, *(f"{label}={value}" for label, value in sorted(sample.labels.items()))])
        for sample in samples
        if sample.name in _ALARMS and sample.value > 0
    ]


def _live(samples: Iterable[Sample]) -> list[Json]:
    """The audited risk of each level, where it is audited: mean, and the bounds that hold for it."""
    found: dict[tuple[tuple[str, str], ...], Json] = {}
    for sample in samples:
        if sample.name == "lynxstop_live_risk":
            level = {name: value for name, value in sorted(sample.labels.items()) if name != "bound"}
            found.setdefault(tuple(level.items()), {**level})[sample.labels["bound"]] = sample.value
    return list(found.values())


def _state(service: Service) -> Json:
    return {
        "state": service.cause or "watched",
        "trouble": service.trouble,
        "dialect": None if service.dialect is None else service.dialect.name,
        "continued_by": None if service.dialect is None else service.dialect.describes,
    }
