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
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from lynxstop.grading.graders import same_of
from lynxstop.grading.grading import Grader, agrees
from lynxstop.monitor.arms import Arm
from lynxstop.monitor.entries import Audit, Begun
from lynxstop.monitor.monitor import LevelKey
from lynxstop.proxy.arrival_order import Turn
from lynxstop.proxy.audit_metrics import AuditMetrics
from lynxstop.proxy.config import MonitorConfig
from lynxstop.proxy.full_answer import Answered
from lynxstop.proxy.live_risk import LiveRisk
from lynxstop.proxy.logs import logger
from lynxstop.recordings.keyed_prompts import KeyedPrompts


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


@dataclass(frozen=True, slots=True)
class AuditDraw:
    """What a request was drawn for at its arrival.

    Parameters
    ----------
    arm : Arm
    key : LevelKey
        Of the level that it is served at.
    turn : Turn or None
        Its place among the audited ones; None in the other arms.
    """

    arm: Arm
    key: LevelKey
    turn: Turn[Audit] | None


class Audited(Protocol):
    """A request that has ended, and how its answers are found out.

    Attributes
    ----------
    done : bool
        Whether the client got the whole answer.
    exited : bool
        Whether it was stopped under its certificate; the answer need not have arrived.
    watched : bool
        Whether its decisions could be made to the end.
    thought : int
        Thinking tokens.
    answer : str
        What the client got after the thinking.
    inputs : tuple
        Score at the first decision point, if known, and how many of them there were.
    exit_score : float or None
        Score that the exit was decided by; None without one.
    messages : Any
        Of the client's chat; None where it sent none.
    """

    @property
    def done(self) -> bool: ...
    @property
    def exited(self) -> bool: ...
    @property
    def watched(self) -> bool: ...
    @property
    def thought(self) -> int: ...
    @property
    def answer(self) -> str: ...
    @property
    def inputs(self) -> tuple[float | None, int]: ...
    @property
    def exit_score(self) -> float | None: ...
    @property
    def messages(self) -> Any: ...

    async def exit_answer(self, most: int) -> Answered:
        """Let the model answer after the exit, in so many tokens at most."""

    async def finished_thinking(self, most: int, extra: Mapping[str, Any]) -> Answered:
        """Finish the thinking that the exit has cut, and answer."""

    async def answered_again(self, most: int, extra: Mapping[str, Any]) -> Answered:
        """Answer the prompt once more, in full, by another draw."""


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

    def enter(self, arm: Arm, key: LevelKey) -> AuditDraw:
        """Take up a request that arrives; `take` or `leave` follows."""
        return AuditDraw(arm, key, self._live.enter(key) if arm is Arm.AUDIT else None)

    def leave(self, draw: AuditDraw) -> None:
        """Let go of a request that turned out not to be one under its certificate."""
        if draw.turn is not None:
            self._live.start(self._live.end(draw.turn, None))

    def take(self, heard: Audited, draw: AuditDraw, seconds: float) -> None:
        """Audit a request that has ended, in the background.

        Parameters
        ----------
        heard : Audited
        draw : AuditDraw
        seconds : float
            How long it took.
        """
        done, arm = heard.done, draw.arm
        if done:
            self._metrics.arm_requests.labels(str(arm)).inc()
            self._metrics.arm_tokens.labels(str(arm)).inc(heard.thought)
            self._metrics.arm_seconds.labels(str(arm)).inc(seconds)
        work = None
        if arm is Arm.HOLDOUT and done and heard.watched:
            work = self._repeat(heard, draw.key)
        elif arm is Arm.AUDIT and heard.exited:
            work = self._exited(heard, draw)
        elif arm is Arm.AUDIT and done:
            work = self._kept("no_exit", self._entry(heard, draw.key, exited=False, loss=0.0), draw.turn)
        elif arm is Arm.AUDIT:
            # The client left, or the server failed, before any exit: no promise is about that.
            self._metrics.audits.labels("abandoned").inc()
            self.leave(draw)
        if work is not None:
            self._live.start(work)

    async def _exited(self, heard: Audited, draw: AuditDraw) -> None:
        name = secrets.token_hex(8)
        begun = Begun(name, *draw.key)
        await self._live.keep(begun)
        found = await self._bounded(self._compare(heard), begun)
        loss = float(found.outcome != "agree")
        entry = self._entry(heard, draw.key, exited=True, loss=loss, id=name, tokens=found.tokens)
        await self._kept(found.outcome, entry, draw.turn)

    async def _repeat(self, heard: Audited, key: LevelKey) -> None:
        found = await self._bounded(self._again(heard))
        entry = self._entry(
            heard,
            key,
            exited=False,
            loss=float(found.outcome != "agree"),
            tokens=found.tokens,
            repeat=True,
        )
        await self._kept(f"repeat_{found.outcome}", entry)

    async def _bounded(self, work: Awaitable[Compared], *begun: Begun) -> Compared:
        """Wait for a turn and run a comparison; whatever goes wrong is an outcome."""
        self._waiting += 1
        self._live.busy = self._waiting >= self._config.waiting
        try:
            async with self._place(*begun), asyncio.timeout(self._config.seconds):
                return await work
        except TimeoutError:
            return Compared("timeout")
        except Exception as error:  # the request itself was answered well
            logger.warning("audit_failed", extra={"fields": {"error": type(error).__name__}})
            return Compared("failed")
        finally:
            self._waiting -= 1
            self._live.busy = self._waiting >= self._config.waiting

    @asynccontextmanager
    async def _place(self, *begun: Begun) -> AsyncIterator[None]:
        """Hold a place; an audit that waits long for one begins again, so that nobody gives it up."""
        taken = asyncio.ensure_future(self._places.acquire())
        try:
            while not (await asyncio.wait([taken], timeout=self._config.seconds))[0]:
                await self._live.keep(*begun)
            yield
        finally:
            # One that is cancelled while it waits has no place to give back, and must not get one later.
            if not taken.cancel():
                self._places.release()

    async def _compare(self, heard: Audited) -> Compared:
        early = Answered(heard.answer, 0)
        if not heard.done:
            # The client has not got all of it.
            early = await heard.exit_answer(self._limits.after_exit)
        full = await heard.finished_thinking(self._limits.answer, self._extra)
        return await self._judge(early, full)

    async def _again(self, heard: Audited) -> Compared:
        again = await heard.answered_again(self._limits.answer, self._extra)
        return await self._judge(Answered(heard.answer, 0), again)

    async def _judge(self, one: Answered, other: Answered) -> Compared:
        outcome = await asyncio.to_thread(compare, self._grader, one.text, other.text)
        return Compared(outcome, one.tokens + other.tokens)

    async def _kept(self, outcome: str, entry: Audit, turn: Turn[Audit] | None = None) -> None:
        self._metrics.audits.labels(outcome).inc()
        self._metrics.tokens.inc(entry.tokens)
        await (self._live.keep(entry) if turn is None else self._live.end(turn, entry))

    def _entry(self, heard: Audited, key: LevelKey, *, exited: bool, loss: float, **more: Any) -> Audit:
        first, cues = heard.inputs
        prompt, calibrated = self._prompts.digest(heard.messages)
        return Audit(
            *key,
            exited=exited,
            loss=loss,
            score=first,
            cues=cues,
            at=time.time(),
            threshold=_finite(self._live.threshold(key)),
            exit_score=_finite(heard.exit_score) if exited else None,
            prompt=prompt,
            calibrated=calibrated,
            **more,
        )


def compare(grader: Grader, early: str | None, full: str | None) -> str:
    """Compare two answers: "agree", "differ" (also when that is undecided), or "unparsed"."""
    if early is None or full is None:
        return "unparsed"
    one, other = grader(early, None), grader(full, None)
    if "unparsed" in (one.status, other.status):
        return "unparsed"
    return "agree" if agrees(one, other.answer, other.status, same_of(grader)) else "differ"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
