"""The monitor of one certified level: from the journal of audits to a verdict."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lynxstop.artifacts import atomic
from lynxstop.errors import DataError
from lynxstop.monitor.exchangeability import ExchangeabilityTest
from lynxstop.monitor.interval import confidence_sequence
from lynxstop.monitor.journal import Audit, Entry, Journal
from lynxstop.monitor.sequential import ChangeDetector, RiskTest

STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class MonitorOptions:
    """What one monitor watches, and how often it may be wrong.

    Parameters
    ----------
    model : str
    group : str or None
    risk : float
        The certified level.
    level : float
        Probability that the alarm "the promise is broken" is ever false.
    run_length : float
        Audits between false alarms of the change detector, on average.
    """

    model: str
    risk: float
    group: str | None = None
    level: float = 0.01
    run_length: float = 10_000.0

    def concerns(self, entry: Entry) -> bool:
        """Whether an audit belongs to this level; a damaged one belongs to every level."""
        if not isinstance(entry, Audit):
            return True
        return (entry.model, entry.group, entry.risk) == (self.model, self.group, self.risk)


@dataclass(frozen=True, slots=True)
class Finding:
    """What the audits say.

    Parameters
    ----------
    alarm : bool
        Exits of this level must stop: the promise is broken, the risk rose, or the audits cannot be read.
    reason : str
        In a sentence; empty while all is well.
    warning : bool
        Inputs no longer look like those of calibration; the promise may still hold.
    audits, exits, damaged : int
    lost : float
        Sum of losses.
    interval : tuple of float
        Confidence sequence of the live risk at 95%, valid at any time.
    e_value : float
        Evidence against the promise; the alarm is raised at 1 / level.
    """

    alarm: bool
    reason: str
    warning: bool
    audits: int
    exits: int
    damaged: int
    lost: float
    interval: tuple[float, float]
    e_value: float


@dataclass(slots=True)
class Monitor:
    """Reads the journal of audits, O(1) per audit; `state` survives restarts.

    Any number of monitors may read one journal: they come to the same verdict, since the journal orders the
    audits of all workers.
    """

    options: MonitorOptions
    test: RiskTest = field(init=False)
    detector: ChangeDetector = field(init=False)
    inputs: Sequence[ExchangeabilityTest] = ()
    offset: int = 0
    audits: int = 0
    exits: int = 0
    damaged: int = 0
    lost: float = 0.0
    unreadable: str = ""

    def __post_init__(self) -> None:
        self.test = RiskTest(self.options.risk, self.options.level)
        self.detector = ChangeDetector(self.options.risk, self.options.run_length)

    def catch_up(self, journal: Journal) -> Finding:
        """Read what was added to the journal; a journal that cannot be read raises the alarm."""
        try:
            for entry, offset in journal.read(self.offset):
                if self.options.concerns(entry):
                    self.add(entry)
                self.offset = offset
            self.unreadable = ""
        except DataError as error:
            self.unreadable = str(error)
        return self.verdict

    def add(self, entry: Entry) -> None:
        """Read one entry; a damaged one counts as a loss."""
        audit = entry if isinstance(entry, Audit) else None
        loss = 1.0 if audit is None else audit.loss
        self.audits += 1
        self.damaged += audit is None
        self.exits += audit is not None and audit.exited
        self.lost += loss
        self.test.add(loss)
        self.detector.add(loss)
        if audit is not None:
            values = (math.nan if audit.score is None else audit.score, float(audit.cues))
            for number, (test, value) in enumerate(zip(self.inputs, values, strict=False)):
                test.add(value, _uniform(self.audits, number))

    @property
    def verdict(self) -> Finding:
        """What the audits say so far."""
        return Finding(
            alarm=bool(self.unreadable) or self.test.alarm or self.detector.alarms > 0,
            reason=self._reason(),
            warning=any(test.warning for test in self.inputs),
            audits=self.audits,
            exits=self.exits,
            damaged=self.damaged,
            lost=self.lost,
            interval=confidence_sequence(self.lost, self.audits),
            e_value=math.exp(min(self.test.log_e, 700.0)),
        )

    def _reason(self) -> str:
        if self.unreadable:
            return f"The audits cannot be read: {self.unreadable}"
        observed = f"{self.lost:g} losses in {self.audits} audits"
        if self.test.alarm:
            return f"The risk has been above {self.options.risk:g} since deployment: {observed}."
        if self.detector.alarms:
            return f"The risk rose above {self.options.risk:g} recently: {observed}."
        return ""

    def save(self, path: Path) -> None:
        """Write the state, atomically, with a digest of itself."""
        content = self.to_json()
        atomic.write_text(path, json.dumps(content | {"digest": _digest(content)}, indent=1) + "\n")

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain data."""
        options = self.options
        return {
            "schema_version": STATE_VERSION,
            "model": options.model,
            "group": options.group,
            "risk": options.risk,
            "level": options.level,
            "run_length": options.run_length,
            "offset": self.offset,
            "audits": self.audits,
            "exits": self.exits,
            "damaged": self.damaged,
            "lost": self.lost,
            "test": self.test.to_json(),
            "detector": self.detector.to_json(),
            "inputs": [test.to_json() for test in self.inputs],
        }


def load(
    path: Path, options: MonitorOptions, inputs: Callable[[], Sequence[ExchangeabilityTest]] = tuple
) -> Monitor:
    """Restore a monitor, or start one that reads the journal from its beginning.

    Parameters
    ----------
    path : Path
        Of the state. One that is missing, damaged or made with other options is not used: the journal holds
        all audits, so that nothing is lost.
    options : MonitorOptions
    inputs : callable
        Makes the tests of inputs for a new monitor.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("digest") != _digest(content) or content["schema_version"] != STATE_VERSION:
            raise ValueError
        monitor = Monitor(options, [ExchangeabilityTest.from_json(test) for test in content["inputs"]])
        if any(
            content[name] != getattr(options, name)
            for name in ("model", "group", "risk", "level", "run_length")
        ):
            raise ValueError
        monitor.test = RiskTest.from_json(content["test"])
        monitor.detector = ChangeDetector.from_json(content["detector"])
        for name in ("offset", "audits", "exits", "damaged", "lost"):
            setattr(monitor, name, content[name])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
        return Monitor(options, inputs())
    return monitor


def _uniform(audit: int, test: int) -> float:
    """A number in [0, 1) that breaks ties, the same in every process that reads the journal."""
    digest = hashlib.sha256(f"{audit}:{test}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
