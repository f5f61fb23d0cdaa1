"""Audits: finish the thinking of a stopped request off the client's path, and compare both answers.

Which requests are audited is drawn at arrival, independently of what they hold. One that never exits has the
loss 0. One that exits has the loss 1 unless its answer and that of its finished thinking certainly agree:
failures, time-outs and answers that cannot be read are losses.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from lynxstop.core.session import Mode
from lynxstop.grading.graders import same_of
from lynxstop.grading.grading import Grader, agrees
from lynxstop.monitor.arms import Arm
from lynxstop.monitor.entries import Audit, Begun
from lynxstop.monitor.monitor import LevelKey
from lynxstop.proxy.audit_metrics import AuditMetrics
from lynxstop.proxy.config import MonitorConfig
from lynxstop.proxy.full_answer import Answered, Heard, answered_again, exit_answer, finished_thinking
from lynxstop.proxy.live_risk import LiveRisk
from lynxstop.proxy.logs import logger
from lynxstop.recordings.keyed_prompts import KeyedPrompts
from lynxstop.remote.chat import Chat


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison found.

    Parameters
    ----------
    outcome : str
        "agree", "differ", "unparsed", "timeout" or "failed"; all but the first are losses.
    tokens : int
        Generated for it.
    """

    outcome: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """Token limits of the bundle: of a whole answer, and of one after an exit."""

    answer: int
    after_exit: int


class Auditor:
    """Audits finished requests, a few at a time.

    Parameters
    ----------
    config : MonitorConfig
    live : LiveRisk
        Keeps the outcomes.
    metrics : AuditMetrics
    grader : callable
    limits : Limits
    prompts : KeyedPrompts
    """

    def __init__(
        self,
        config: MonitorConfig,
        live: LiveRisk,
        metrics: AuditMetrics,
        grader: Grader,
        limits: Limits,
        prompts: KeyedPrompts,
    ) -> None:
        self._config, self._live, self._metrics = config, live, metrics
        self._grader, self._limits, self._prompts = grader, limits, prompts
        self._extra: dict[str, Any] = {} if config.priority is None else {"priority": config.priority}
        self._places = asyncio.Semaphore(config.concurrent)
        self._waiting = 0

    def take(self, heard: Heard, arm: Arm, key: LevelKey, seconds: float) -> None:
        """Audit a request that has ended, in the background.

        Parameters
        ----------
        heard : Heard
        arm : Arm
            As drawn at its arrival.
        key : LevelKey
            Of the level it was served at.
        seconds : float
            How long it took.
        """
        chat = heard.chat
        done = bool(chat.final_report)
        if done:
            self._metrics.arm_requests.labels(str(arm)).inc()
            self._metrics.arm_tokens.labels(str(arm)).inc(_thought(chat))
            self._metrics.arm_seconds.labels(str(arm)).inc(seconds)
        work = None
        if arm is Arm.HOLDOUT and done and chat.blind is None:
            work = self._repeat(heard, key)
        elif arm is Arm.AUDIT and took_exit(chat):
            work = self._exited(heard, key)
        elif arm is Arm.AUDIT and done:
            work = self._kept("no_exit", self._entry(chat, key, exited=False, loss=0.0))
        elif arm is Arm.AUDIT:
            # The client left, or the server failed, before any exit: no promise is about that.
            self._metrics.audits.labels("abandoned").inc()
        if work is not None:
            self._live.start(work)

    async def _exited(self, heard: Heard, key: LevelKey) -> None:
        chat, name = heard.chat, secrets.token_hex(8)
        await self._live.keep(Begun(name, *key))
        found = await self._bounded(self._compare(heard))
        loss = float(found.outcome != "agree")
        entry = self._entry(chat, key, exited=True, loss=loss, id=name, tokens=found.tokens)
        await self._kept(found.outcome, entry)

    async def _repeat(self, heard: Heard, key: LevelKey) -> None:
        found = await self._bounded(self._again(heard))
        entry = self._entry(
            heard.chat,
            key,
            exited=False,
            loss=float(found.outcome != "agree"),
            tokens=found.tokens,
            repeat=True,
        )
        await self._kept(f"repeat_{found.outcome}", entry)

    async def _bounded(self, work: Awaitable[Compared]) -> Compared:
        """Wait for a turn and run a comparison; whatever goes wrong is an outcome."""
        self._waiting += 1
        self._live.busy = self._waiting >= self._config.waiting
        try:
            async with self._places, asyncio.timeout(self._config.seconds):
                return await work
        except TimeoutError:
            return Compared("timeout")
        except Exception as error:  # the request itself was answered well
            logger.warning("audit_failed", extra={"fields": {"error": type(error).__name__}})
            return Compared("failed")
        finally:
            self._waiting -= 1
            self._live.busy = self._waiting >= self._config.waiting

    async def _compare(self, heard: Heard) -> Compared:
        chat = heard.chat
        early = Answered(heard.answer, 0)
        if not chat.final_report:
            # The client has not got all of it.
            early = await exit_answer(chat, self._limits.after_exit)
        full = await finished_thinking(chat, self._limits.answer, self._extra)
        return await self._judge(early, full)

    async def _again(self, heard: Heard) -> Compared:
        again = await answered_again(heard.chat, self._limits.answer, self._extra)
        return await self._judge(Answered(heard.answer, 0), again)

    async def _judge(self, one: Answered, other: Answered) -> Compared:
        outcome = await asyncio.to_thread(compare, self._grader, one.text, other.text)
        return Compared(outcome, one.tokens + other.tokens)

    async def _kept(self, outcome: str, entry: Audit) -> None:
        self._metrics.audits.labels(outcome).inc()
        self._metrics.tokens.inc(entry.tokens)
        await self._live.keep(entry)

    def _entry(self, chat: Chat, key: LevelKey, *, exited: bool, loss: float, **more: Any) -> Audit:
        events = [event for event in chat.session.session.events if event.eligible]
        prompt, calibrated = self._prompts.digest(chat.client_request.body.get("messages"))
        taken = chat.session.session.exit
        return Audit(
            *key,
            exited=exited,
            loss=loss,
            score=_finite(events[0].score) if events else None,
            cues=len(events),
            at=time.time(),
            threshold=_finite(self._live.threshold(key)),
            exit_score=_finite(taken.score) if exited and taken is not None else None,
            prompt=prompt,
            calibrated=calibrated,
            **more,
        )


def took_exit(chat: Chat) -> bool:
    """Whether a chat was stopped under its certificate; the answer need not have arrived."""
    taken = chat.session.session.exit
    stops = chat.client_request.mode is Mode.STOP and chat.session.truncation is not None
    return stops and chat.blind is None and taken is not None and taken.certified


def compare(grader: Grader, early: str | None, full: str | None) -> str:
    """Compare two answers: "agree", "differ" (also when that is undecided), or "unparsed"."""
    if early is None or full is None:
        return "unparsed"
    one, other = grader(early, None), grader(full, None)
    if "unparsed" in (one.status, other.status):
        return "unparsed"
    return "agree" if agrees(one, other.answer, other.status, same_of(grader)) else "differ"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _thought(chat: Chat) -> int:
    session = chat.session
    if chat.stopped and session.truncation is not None:
        return session.truncation.thinking_tokens
    return sum(session.thinking)
