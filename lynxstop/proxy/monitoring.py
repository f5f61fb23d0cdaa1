"""Put together what audits live traffic: the journal, the monitors of the levels, and the auditor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lynxstop.artifacts.bundle import Bundle
from lynxstop.core.policy import StopPolicy
from lynxstop.errors import ConfigError, LynxstopError
from lynxstop.extras import need
from lynxstop.grading.graders import GRADERS, MATH, grader_named
from lynxstop.grading.grading import Grader
from lynxstop.monitor.exchangeability import ExchangeabilityTest
from lynxstop.monitor.journal import FileJournal, RedisJournal
from lynxstop.monitor.levels import JOURNAL, SNAPSHOT, Inputs, LevelMonitors, open_monitors
from lynxstop.monitor.monitor import LevelKey, MonitorOptions
from lynxstop.proxy.audit import Auditor, Limits
from lynxstop.proxy.audit_metrics import AuditMetrics
from lynxstop.proxy.config import MonitorConfig, ProxyConfig
from lynxstop.proxy.live_risk import LiveRisk
from lynxstop.proxy.logs import logger
from lynxstop.proxy.metrics import Metrics
from lynxstop.proxy.service import Services
from lynxstop.recordings.keyed_prompts import KeyedPrompts

if TYPE_CHECKING:
    from lynxstop.calibration.traces import TraceTable

AUDITED = "disagree"
"""The loss that audits measure: traffic has no reference answers."""


@dataclass(frozen=True, slots=True)
class Monitoring:
    """What decides whether requests may be stopped, and what audits them.

    Parameters
    ----------
    live : LiveRisk or None
        None where there are neither audits nor a canary share.
    auditor : Auditor or None
        None where nothing is audited.
    """

    live: LiveRisk | None = None
    auditor: Auditor | None = None

    @classmethod
    def of(cls, config: ProxyConfig, metrics: Metrics, services: Services) -> Monitoring:
        """Make it as the configuration says; see `over`."""
        if not config.monitor.on and config.policy.canary == 1.0:
            return cls()
        counted = metrics.audits
        return cls.over(config, counted, services.bundle, services.policy, inputs=True)

    @classmethod
    def over(
        cls,
        config: ProxyConfig,
        counted: AuditMetrics,
        bundle: Bundle | None,
        policy: StopPolicy | None,
        *,
        inputs: bool,
    ) -> Monitoring:
        """Make it for a bundle; `inputs` says whether scores of live requests are known, and compared.

        Raises
        ------
        ConfigError
            When audits need what the bundle does not have, or the folder cannot be written.
        """
        if not config.monitor.on and config.policy.canary == 1.0:
            return cls()
        if not config.monitor.on:
            return cls(LiveRisk(config, policy, counted))
        need("sympy", "calibrate")
        grader = grader_of(config.monitor.grader, None if bundle is None else bundle.policy.grader)
        if bundle is not None:
            _require_audited(bundle)
        monitors = monitors_of(config.monitor, inputs_of(bundle) if inputs and bundle is not None else None)
        live = LiveRisk(config, policy, counted, monitors)
        sampling = None if bundle is None else bundle.policy.sampling
        limits = (
            Limits(4096, 512) if sampling is None else Limits(sampling.max_tokens, sampling.answer_tokens)
        )
        own = config.monitor.key
        key = monitors.journal.salt() if own is None else own.get_secret_value().encode()
        prompts = KeyedPrompts(key, () if bundle is None else _prompts(bundle))
        return cls(live, Auditor(config.monitor, live, counted, grader, limits, prompts))

    @staticmethod
    def check(config: ProxyConfig, bundle: Bundle) -> None:
        """Refuse audits that a bundle does not go together with, before anything is started.

        Raises
        ------
        ConfigError
        """
        if config.monitor.on:
            need("sympy", "calibrate")
            grader_of(config.monitor.grader, bundle.policy.grader)
            _require_audited(bundle)

    async def notice(self) -> str | None:
        """Say what operators have to know; None while all is well."""
        return None if self.live is None else await self.live.look()


def grader_of(configured: str | None, certified: str | None) -> Grader:
    """Return the grader that certified a bundle, so that audits measure what was promised.

    Parameters
    ----------
    configured : str or None
        By the operator.
    certified : str or None
        Name that the bundle gives; None without a bundle.

    Raises
    ------
    ConfigError
        When the two differ, or the bundle names a function: no code is run because a bundle says so.
    """
    if certified is None or configured == certified:
        return grader_named(configured or MATH)
    if configured is not None:
        raise ConfigError(
            f"Audits would compare answers by {configured!r}; the bundle was certified by {certified!r}.",
            hint="Leave monitor.grader out, or certify with that grader.",
        )
    if certified not in GRADERS:
        raise ConfigError(
            f"The bundle was certified by a grader of its own, {certified!r}.",
            hint=f'If you trust it, say so: monitor.grader = "{certified}".',
        )
    return grader_named(certified)


def _prompts(bundle: Bundle) -> set[str]:
    """Digests of the prompts that certificates rest on; what cannot be read is compared with nothing."""
    found: set[str] = set()
    for name in {level.certificate for level in bundle.policy.levels if level.group is None}:
        try:
            table = _evidence(bundle, name)
        except (LynxstopError, OSError) as error:
            logger.warning("prompts_not_compared", extra={"fields": {"error": type(error).__name__}})
            continue
        found |= set(() if table.prompts is None else table.prompts.tolist())
    return found


def monitors_of(config: MonitorConfig, inputs: Inputs | None = None) -> LevelMonitors:
    """Open the monitors that a configuration names."""
    options = MonitorOptions(level=config.level, stop_on_change=config.stop_on_change)
    if config.redis is not None:
        return open_monitors(RedisJournal(config.redis.get_secret_value()), options, None, inputs)
    assert config.state is not None
    try:
        config.state.mkdir(parents=True, exist_ok=True)
        made = open_monitors(FileJournal(config.state / JOURNAL), options, config.state / SNAPSHOT, inputs)
        # `lynxstop monitor` reads the options from it.
        made.save()
    except OSError as error:
        raise ConfigError(
            f"monitor.state cannot be written: {config.state}: {error.strerror}.",
            hint="Give a folder that the proxy owns.",
        ) from None
    return made


def inputs_of(bundle: Bundle) -> Inputs:
    """Make the tests that compare live inputs with those of calibration, level by level."""

    def made(key: LevelKey) -> list[ExchangeabilityTest]:
        levels = {(level.served.whose, level.risk): level for level in bundle.policy.levels}
        level = levels.get((key.group, key.risk))
        if level is None:
            return []
        try:
            return _tests(_evidence(bundle, level.certificate), level.threshold)
        except (LynxstopError, OSError) as error:
            logger.warning("inputs_not_compared", extra={"fields": {"error": type(error).__name__}})
            return []

    return made


def _evidence(bundle: Bundle, name: str) -> TraceTable:
    from lynxstop.calibration.certificate import Certificate
    from lynxstop.calibration.evidence import read_evidence

    certificate = Certificate.load(bundle.path / name)
    path = (bundle.path / name).parent / f"evidence-{certificate.evidence_sha256[:16]}.parquet"
    table = read_evidence(path, certificate)
    if certificate.group is None or table.groups is None:
        return table
    return table.select(table.groups == certificate.group.value)


def _tests(table: TraceTable, threshold: float) -> list[ExchangeabilityTest]:
    """Tests of the first score, and of the number of decision points up to the exit; one trace a problem.

    Several samples of a problem are alike: taken for as many requests, they make the test sure of too much.
    """
    from lynxstop.calibration.units import as_units

    table = as_units(table, "one", 0).table
    first, points = np.full(table.traces, np.nan), np.zeros(table.traces)
    for trace in range(table.traces):
        scores = table.scores[table.offsets[trace] : table.offsets[trace + 1]]
        if len(scores):
            exits = np.flatnonzero(scores > threshold)
            first[trace], points[trace] = scores[0], exits[0] + 1 if len(exits) else len(scores)
    return [ExchangeabilityTest.from_reference(first), ExchangeabilityTest.from_reference(points)]


def _require_audited(bundle: Bundle) -> None:
    if other := sorted({level.loss for level in bundle.policy.levels} - {AUDITED}):
        raise ConfigError(
            f"Audits measure the loss {AUDITED!r}; the bundle has levels certified for {', '.join(other)}.",
            hint=f"Certify them for --loss {AUDITED}, or leave [monitor] state out.",
        )
