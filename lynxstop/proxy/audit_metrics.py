"""What the proxy counts about audits and arms; no request is identified."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge

from lynxstop.monitor.levels import LevelMonitors
from lynxstop.monitor.monitor import Finding, LevelKey

_LEVEL = ["model", "group", "risk"]
_BOUNDS = ("mean", "lower", "upper")


class AuditMetrics:
    """Metrics of the audits of one proxy.

    Parameters
    ----------
    registry : CollectorRegistry
        Of the proxy's other metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, labels: list[str]) -> Gauge:
            return Gauge(
                f"lynxstop_{name}", text, labels, registry=registry, multiprocess_mode="livemostrecent"
            )

        self.audits = Counter(
            "lynxstop_audits", "Audits by what came of them.", ["outcome"], registry=registry
        )
        self.tokens = Counter(
            "lynxstop_audit_tokens", "Tokens that audits made the server generate.", registry=registry
        )
        self.arm_requests = Counter(
            "lynxstop_arm_requests",
            "Watched requests that were answered, by arm.",
            ["arm"],
            registry=registry,
        )
        self.arm_tokens = Counter(
            "lynxstop_arm_thinking_tokens", "Thinking tokens of these, by arm.", ["arm"], registry=registry
        )
        self.arm_seconds = Counter(
            "lynxstop_arm_seconds", "Time of these, by arm.", ["arm"], registry=registry
        )
        self.withheld = Counter(
            "lynxstop_exits_withheld",
            "Requests that could not be stopped, by cause.",
            ["cause"],
            registry=registry,
        )
        self.live_risk = gauge(
            "live_risk", "Audited risk, and its confidence sequence at 95%.", [*_LEVEL, "bound"]
        )
        self.disagreement = gauge(
            "self_disagreement", "How often two full answers to one prompt differ.", [*_LEVEL, "bound"]
        )
        self.e_value = gauge("e_value", "Evidence against the promise of a level.", _LEVEL)
        self.alarm = gauge("alarm", "1 while exits of a level are stopped by its audits.", _LEVEL)
        self.changed = gauge("risk_changed", "1 after the risk of a level rose, until a reset.", _LEVEL)
        self.unknown = gauge("monitor_unknown", "1 while the audits cannot be read or kept.", [])

        self._shown: set[LevelKey] = set()

    def show(self, monitors: LevelMonitors, trouble: str) -> None:
        """Set what the audits say; of a level that was reset, nothing is known."""
        self.unknown.set(bool(trouble))
        findings = monitors.findings
        for key in self._shown - findings.keys():
            self._forget(key)
        for key, finding in findings.items():
            self._show(key, finding)
        self._shown = set(findings)

    def _forget(self, key: LevelKey) -> None:
        names = _names(key)
        self.e_value.labels(*names).set(1.0)
        self.alarm.labels(*names).set(0)
        self.changed.labels(*names).set(0)
        for gauge in (self.live_risk, self.disagreement):
            for bound in _BOUNDS:
                gauge.labels(*names, bound).set(math.nan)

    def _show(self, key: LevelKey, finding: Finding) -> None:
        names = _names(key)
        self.e_value.labels(*names).set(finding.e_value)
        self.alarm.labels(*names).set(finding.alarm)
        self.changed.labels(*names).set(finding.changed)
        shown = (
            (self.live_risk, finding.lost, finding.audits, finding.interval),
            (self.disagreement, finding.differed, finding.repeats, finding.self_interval),
        )
        for gauge, total, count, (lower, upper) in shown:
            if count:
                for bound, value in zip(_BOUNDS, (total / count, lower, upper), strict=True):
                    gauge.labels(*names, bound).set(value)


def _names(key: LevelKey) -> tuple[str, str, str]:
    return key.model, key.group or "", f"{key.risk:g}"
