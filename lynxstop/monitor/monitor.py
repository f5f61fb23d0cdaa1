"""The monitor of one certified level: from its audits to a verdict."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

from lynxstop.monitor.entries import Audit, Damaged, Reset
from lynxstop.monitor.exchangeability import ExchangeabilityTest
from lynxstop.monitor.interval import confidence_sequence
from lynxstop.monitor.sequential import ChangeDetector, RiskTest

_COUNTS = ("audits", "exits", "damaged", "lost", "repeats", "differed", "tokens", "changed_at")


class LevelKey(NamedTuple):
    """A certified level as it is served: the model's name, the group (None: all requests) and the risk."""

    model: str
    group: str | None
    risk: float

    def within(self, reset: Reset) -> bool:
        """Whether a reset is about this level."""
        asked = (reset.model, reset.group, reset.risk)
        return all(wanted in (None, own) for wanted, own in zip(asked, self, strict=True))


@dataclass(frozen=True, slots=True)
class MonitorOptions:
    """How often monitors may be wrong, and what raises an alarm.

    Parameters
    ----------
    level : float
        Probability that the alarm of a level that keeps its promise is ever raised.
    run_length : float
        Audits between false alarms of the change detector, on average.
    stop_on_change : bool
        Whether the change detector raises the alarm too: a late change is found sooner, and the probability
        of a false alarm is then bounded per `run_length` audits, no longer over all time.
    """

    level: float = 0.01
    run_length: float = 10_000.0
    stop_on_change: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What the audits of a level say.

    Parameters
    ----------
    alarm : bool
        The promise is broken: exits of this level must stop.
    reason : str
        In a sentence; empty while there is neither an alarm nor a change.
    changed : bool
        The risk rose above the certified one since the start or the last reset; alone it is a warning.
    warning : bool
        Inputs no longer look like those of calibration; the promise may still hold.
    audits, exits, damaged : int
    lost : float
        Sum of losses.
    interval : tuple of float
        Confidence sequence of the live risk at 95%, valid at any time.
    e_value : float
        Evidence against the promise; the alarm is raised at 1 / level.
    repeats, differed : int
        Prompts that were answered in full twice, and those whose two answers differed.
    self_interval : tuple of float
        Confidence sequence of that disagreement at 95%.
    tokens : int
        Tokens that audits made the server generate.
    """

    alarm: bool
    reason: str
    changed: bool
    warning: bool
    audits: int
    exits: int
    damaged: int
    lost: float
    interval: tuple[float, float]
    e_value: float
    repeats: int
    differed: float
    self_interval: tuple[float, float]
    tokens: int

    @property
    def state(self) -> str:
        """The verdict in a word: alarm, changed, inputs, or ok."""
        states = {"alarm": self.alarm, "changed": self.changed, "inputs": self.warning}
        return next((name for name, holds in states.items() if holds), "ok")

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        risk = self.lost / self.audits if self.audits else None
        differed = self.differed / self.repeats if self.repeats else None
        return {"state": self.state, **asdict(self), "live_risk": risk, "self_disagreement": differed}


@dataclass(slots=True)
class Monitor:
    """State of one level, O(1) per audit.

    Parameters
    ----------
    key : LevelKey
    options : MonitorOptions
    inputs : sequence of ExchangeabilityTest
        Of the score at the first decision point, and of the number of decision points.
    """

    key: LevelKey
    options: MonitorOptions
    inputs: Sequence[ExchangeabilityTest] = ()
    test: RiskTest = field(init=False)
    detector: ChangeDetector = field(init=False)
    audits: int = 0
    exits: int = 0
    damaged: int = 0
    lost: float = 0.0
    repeats: int = 0
    differed: float = 0.0
    tokens: int = 0
    changed_at: int = 0
    """Audits when the change detector last raised an alarm."""

    def __post_init__(self) -> None:
        self.test = RiskTest(self.key.risk, self.options.level)
        self.detector = ChangeDetector(self.key.risk, self.options.run_length)

    def add(self, entry: Audit | Damaged) -> None:
        """Read one audit; a damaged one counts as a loss."""
        if isinstance(entry, Damaged):
            self.damaged += 1
            self._count(1.0)
            return
        self.tokens += entry.tokens
        if entry.repeat:
            self.repeats += 1
            self.differed += entry.loss
            return
        self.exits += entry.exited
        self._count(entry.loss)
        if entry.given_up:
            return
        values = (math.nan if entry.score is None else entry.score, float(entry.cues))
        for number, (test, value) in enumerate(zip(self.inputs, values, strict=False)):
            test.add(value, _uniform(self.audits, number))

    def _count(self, loss: float) -> None:
        self.audits += 1
        self.lost += loss
        self.test.add(loss)
        if self.detector.add(loss):
            self.changed_at = self.audits

    @property
    def alarm(self) -> bool:
        """Whether exits of this level must stop."""
        return self.test.alarm or (self.detector.alarms > 0 and self.options.stop_on_change)

    @property
    def verdict(self) -> Finding:
        """What the audits say so far."""
        changed = self.detector.alarms > 0
        return Finding(
            alarm=self.alarm,
            reason=self._reason(),
            changed=changed,
            warning=any(test.warning for test in self.inputs),
            audits=self.audits,
            exits=self.exits,
            damaged=self.damaged,
            lost=self.lost,
            interval=confidence_sequence(self.lost, self.audits),
            e_value=math.exp(min(self.test.log_e, 700.0)),
            repeats=self.repeats,
            differed=self.differed,
            self_interval=confidence_sequence(self.differed, self.repeats),
            tokens=self.tokens,
        )

    def _reason(self) -> str:
        risk = self.key.risk
        observed = f"{self.lost:g} losses in {self.audits} audits"
        if self.test.alarm:
            return (
                f"The risk has been above {risk:g} since the start or the last reset (a false alarm has a "
                f"probability of at most {self.options.level:g}): {observed}."
            )
        if self.detector.alarms:
            since = self.audits - self.changed_at
            when = f"{since} audit{'s'[: since > 1]} ago" if since else "recently"
            return f"The risk seems to have risen above {risk:g} {when}: {observed}."
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {
            **self.key._asdict(),
            **{name: getattr(self, name) for name in _COUNTS},
            "test": self.test.to_json(),
            "detector": self.detector.to_json(),
            "inputs": [test.to_json() for test in self.inputs],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any], options: MonitorOptions) -> Self:
        """Restore a state.

        Raises
        ------
        DataError, LookupError, TypeError, ValueError
            When it is damaged.
        """
        key = LevelKey(content["model"], content["group"], content["risk"])
        monitor = cls(key, options, [ExchangeabilityTest.from_json(test) for test in content["inputs"]])
        monitor.test = RiskTest.from_json(content["test"])
        monitor.detector = ChangeDetector.from_json(content["detector"])
        for name in _COUNTS:
            setattr(monitor, name, content[name])
        return monitor


def _uniform(audit: int, test: int) -> float:
    """A number in [0, 1) that breaks ties, the same in every process that reads the journal."""
    digest = hashlib.sha256(f"{audit}:{test}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
