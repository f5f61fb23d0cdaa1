"""Whether a request may be stopped: its arm, and what the audits say about its level."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lynxstop.core.exits import Mode
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.errors import ConfigError, LynxstopError
from lynxstop.monitor.arms import Arm, ArmShares
from lynxstop.monitor.entries import Audit, Begun
from lynxstop.monitor.levels import LevelMonitors
from lynxstop.monitor.monitor import Finding, LevelKey
from lynxstop.proxy.arrival_order import ArrivalOrder, Turn
from lynxstop.proxy.audit_metrics import AuditMetrics
from lynxstop.proxy.config import ProxyConfig
from lynxstop.proxy.logs import logger
from lynxstop.proxy.request_options import ExitOptions

REFRESH_SECONDS = 1.0
"""Age of what is known of other processes' audits."""

GIVEN_UP = 3.0
"""Times `monitor.seconds` after which an audit that has begun is lost: whoever ran it is gone."""

_MOST_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a request is treated.

    Parameters
    ----------
    options : ExitOptions
        Its options, as they are served.
    arm : Arm
    withheld : str or None
        Why it is not stopped at the level that it asked for.
    """

    options: ExitOptions
    arm: Arm = Arm.SERVE
    withheld: str | None = None


class LiveRisk:
    """Draws arms, reads the findings, and withholds exits that are no longer certain to be as promised.

    Parameters
    ----------
    config : ProxyConfig
    policy : StopPolicy or None
        Has the certified levels.
    metrics : AuditMetrics
    monitors : LevelMonitors or None
        None: nothing is audited, and only the canary share counts.
    """

    def __init__(
        self,
        config: ProxyConfig,
        policy: StopPolicy | None,
        metrics: AuditMetrics,
        monitors: LevelMonitors | None = None,
    ) -> None:
        own = config.monitor
        key = secrets.token_bytes(32) if own.key is None else own.key.get_secret_value().encode()
        watched = monitors is not None
        self._shares = ArmShares(
            key, own.audit if watched else 0.0, own.holdout if watched else 0.0, config.policy.canary
        )
        self._config, self._policy, self._metrics, self._monitors = own, policy, metrics, monitors
        self._order = ArrivalOrder[Audit](own.seconds)
        self._unkept: list[Audit | Begun] = []
        self._given_up: set[str] = set()
        self._trouble = ""
        self._said: set[object] = set()
        self._findings: Mapping[LevelKey, Finding] = {}
        self._lock = asyncio.Lock()
        self._read_at = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self.busy = False
        if monitors is not None:
            self._publish()

    def treat(self, request_id: str, model: str, options: ExitOptions) -> Treatment:
        """Return how a request is served, given its id, its model and what it asked for."""
        if options.risk is None or options.mode is not Mode.STOP:
            return Treatment(options)
        self._poll()
        arm = self._shares.arm(request_id)
        if arm is Arm.OUTSIDE:
            return self._off(options, arm, "canary")
        if options.race > 1 or (self.busy and arm is not Arm.SERVE):
            arm = Arm.SERVE
        if arm is Arm.HOLDOUT:
            return Treatment(replace(options, mode=Mode.SHADOW, named=True), arm)
        cause = self._cause(model, self._level(options))
        if cause is None or self._config.on_alarm == "warn":
            return Treatment(options, arm)
        stricter = self._stricter(model, options) if self._config.on_alarm == "stricter" else None
        if stricter is None:
            return self._off(options, Arm.SERVE, cause)
        self._metrics.withheld.labels(cause).inc()
        return Treatment(replace(options, risk=stricter.risk, named=True), arm)

    def key(self, model: str, options: ExitOptions) -> LevelKey:
        """Return the level that a request is served at, as audits name it."""
        level = self._level(options)
        return LevelKey(model, level.whose, level.risk)

    def threshold(self, key: LevelKey) -> float:
        """Return the threshold that requests of a level are served at; infinite where none is known."""
        levels = () if self._policy is None else self._policy.levels
        return next((v.threshold for v in levels if (v.whose, v.risk) == (key.group, key.risk)), math.inf)

    async def look(self) -> str | None:
        """Read what other processes have written, and say what operators have to know; None: all is well."""
        if self._monitors is None:
            return None
        await self.refresh()
        if self._trouble:
            return f"The state of the audits is unknown: {self._trouble}"
        found = [self._sentence(*pair) for pair in self._findings.items() if pair[1].reason]
        return " ".join(found) or None

    async def keep(self, *entries: Audit | Begun) -> None:
        """Write entries into the journal; those that it does not take are kept, and the state is unknown."""
        async with self._lock:
            await asyncio.to_thread(self._write, entries)
            self._publish()

    def enter(self, key: LevelKey) -> Turn[Audit]:
        """Give a request that is audited its turn, at its arrival."""
        return self._order.enter(key)

    async def end(self, turn: Turn[Audit], outcome: Audit | None) -> None:
        """Keep the outcome of an audited request when its turn has come; None when it does not count."""
        self._order.end(turn, outcome)
        await self.keep(*self._order.released())

    async def refresh(self) -> None:
        """Read what other processes have written."""
        await self.keep(*self._order.released())

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work beside the requests."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self) -> None:
        """Wait for what runs beside the requests, and write the state."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._monitors is not None:
            await self.keep(*self._order.released(everything=True))
            await asyncio.to_thread(self._save, True)

    def _off(self, options: ExitOptions, arm: Arm, cause: str) -> Treatment:
        self._metrics.withheld.labels(cause).inc()
        return Treatment(replace(options, risk=None, named=True), arm, cause)

    def _level(self, options: ExitOptions) -> Level:
        assert options.risk is not None
        if self._policy is None:
            return Level(options.risk, 0.0, options.group)
        return self._policy.level(options.risk, options.group, options.served)

    def _cause(self, model: str, level: Level) -> str | None:
        if self._trouble:
            return "unknown"
        finding = self._findings.get(LevelKey(model, level.whose, level.risk))
        return "alarm" if finding is not None and finding.alarm else None

    def _stricter(self, model: str, options: ExitOptions) -> Level | None:
        """Return the next stricter level that its audits do not speak against."""
        assert options.risk is not None
        levels = () if self._policy is None else self._policy.levels
        below = sorted(
            {level.risk for level in levels if level.risk < options.risk * (1 - 1e-9)}, reverse=True
        )
        for risk in below:
            try:
                level = self._level(replace(options, risk=risk))
            except ConfigError:
                continue
            same = level.sampling == self._level(options).sampling
            if same and self._cause(model, level) is None:
                return level
        return None

    def _poll(self) -> None:
        now = time.monotonic()
        if self._monitors is not None and now - self._read_at > REFRESH_SECONDS and not self._lock.locked():
            self._read_at = now
            self.start(self.refresh())

    def _write(self, entries: Sequence[Audit | Begun]) -> None:
        """Append entries and read the journal; runs in a thread, one at a time."""
        monitors = self._monitors
        assert monitors is not None
        self._unkept += entries
        for name, key in monitors.overdue(GIVEN_UP * self._config.seconds):
            if name not in self._given_up:
                self._given_up.add(name)
                self._metrics.audits.labels("lost").inc()
                self._unkept.append(Audit(*key, exited=True, loss=1.0, at=time.time(), id=name))
        del self._unkept[:-_MOST_KEPT]
        failed = ""
        try:
            while self._unkept:
                monitors.journal.append(self._unkept[0])
                self._unkept.pop(0)
        except LynxstopError as error:
            failed = str(error)
        monitors.catch_up()
        self._given_up &= monitors.pending.keys()
        self._save(False)
        self._trouble = monitors.trouble or failed

    def _save(self, force: bool) -> None:
        assert self._monitors is not None
        try:
            self._monitors.save(force=force)
        except (LynxstopError, OSError) as error:
            # The journal has everything: only a restart takes longer.
            logger.warning("monitor_not_saved", extra={"fields": {"error": type(error).__name__}})

    def _publish(self) -> None:
        """Take over what was read; an alarm is logged once by every process."""
        assert self._monitors is not None
        self._trouble = self._trouble or self._monitors.trouble
        self._findings = self._monitors.findings
        self._metrics.show(self._monitors, self._trouble)
        current: dict[object, str] = {
            (key, finding.state): self._sentence(key, finding)
            for key, finding in self._findings.items()
            if finding.reason
        }
        if self._trouble:
            current["unknown"] = f"The state of the audits is unknown: {self._trouble}"
        for what, sentence in current.items():
            if what not in self._said:
                logger.error("monitor", extra={"fields": {"reason": sentence}})
        self._said = set(current)

    def _sentence(self, key: LevelKey, finding: Finding) -> str:
        """Say what was found of a level, what was done, and what to do."""
        group = f", group {key.group}" if key.group is not None else ""
        said = f"{key.model}{group}, level {key.risk:g}: {finding.reason}"
        if not finding.alarm:
            return f"{said} It is a warning: exits go on."
        done = {
            "think": "Its requests think to the end.",
            "stricter": "Its requests get the next stricter level without an alarm, or think to the end.",
            "warn": "Its exits go on, as [monitor] on_alarm says.",
        }[self._config.on_alarm]
        return (
            f"{said} {done} Look at it with `lynxstop monitor status`, calibrate on traffic of today, "
            "and then run `lynxstop monitor reset`."
        )
