"""The monitors of all levels of a deployment: one journal in, one finding per level out.

Any number of processes may read one journal: they come to the same findings, since the journal orders the
entries of all. What cannot be read is never taken for good news: a journal that is gone, was cut short or was
replaced makes the whole state unknown, until somebody resets it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lynxstop.artifacts import atomic
from lynxstop.errors import DataError
from lynxstop.monitor.damage import Damage
from lynxstop.monitor.entries import Begun, Damaged, Entry, Lost, Reset
from lynxstop.monitor.exchangeability import ExchangeabilityTest
from lynxstop.monitor.journal import FileJournal, Journal, RedisJournal
from lynxstop.monitor.monitor import Finding, LevelKey, Monitor, MonitorOptions

JOURNAL, SNAPSHOT = "audits.jsonl", "monitor.json"
SCHEMA_VERSION = 1
SAVE_EVERY = 200
"""Entries after which a snapshot is written again; it only makes a restart quicker."""

_LOST = "What the monitor knew is lost: {} Exits stay off until `lynxstop monitor reset`."

Inputs = Callable[[LevelKey], Sequence[ExchangeabilityTest]]
"""Makes the tests of inputs for a level."""


@dataclass(slots=True)
class LevelMonitors:
    """Reads a journal, and keeps one monitor per level that has audits.

    Parameters
    ----------
    journal : Journal
    options : MonitorOptions
    inputs : callable
    snapshot : Path, optional
        Where the state is written; without one, a restart reads the whole journal.

    Attributes
    ----------
    monitors : dict from LevelKey to Monitor
    pending : dict from id to (LevelKey, float)
        Audits that have begun, and when this process read of each, by its monotonic clock.
    trouble : str
        Why the state is unknown, in a sentence; empty when it is known.
    """

    journal: Journal
    options: MonitorOptions
    inputs: Inputs = lambda key: ()
    snapshot: Path | None = None
    monitors: dict[LevelKey, Monitor] = field(default_factory=dict)
    pending: dict[str, tuple[LevelKey, float]] = field(default_factory=dict)
    damage: Damage = field(default_factory=Damage)
    offset: int = 0
    mark: str = ""
    lost: str = ""
    unreadable: str = ""
    _saved_at: int = 0
    _saved_alarms: frozenset[LevelKey] = frozenset()

    @property
    def trouble(self) -> str:
        """Why the state is unknown, in a sentence; empty when it is known."""
        return self.lost or self.unreadable

    @property
    def findings(self) -> Mapping[LevelKey, Finding]:
        """What the audits of each level say."""
        return {key: monitor.verdict for key, monitor in self.monitors.items()}

    def catch_up(self) -> None:
        """Read what was added to the journal; one that cannot be read makes the state unknown."""
        try:
            self._check()
            before = self.offset
            for entry, offset in self.journal.read(self.offset):
                self._take(entry)
                self.offset = offset
            if self.offset != before:
                self.mark = self.journal.mark(self.offset)
            self.unreadable = ""
        except DataError as error:
            self.unreadable = str(error)

    def overdue(self, seconds: float) -> list[tuple[str, LevelKey]]:
        """Audits that began so long ago that whoever ran them is gone: their outcome is lost."""
        now = time.monotonic()
        return [(name, key) for name, (key, since) in self.pending.items() if now - since > seconds]

    def _check(self) -> None:
        """Notice that the journal is no longer the one that was read, note that in it, and go on at its end.

        Raises
        ------
        DataError
            When it cannot be read at all.
        """
        if self.offset == 0:
            return
        try:
            if self.journal.mark(self.offset) == self.mark:
                return
            why = "The audit journal is another one than before."
        except DataError as error:
            if self.journal.end() >= self.offset:
                raise
            why = error.message
        self.lost = _LOST.format(why)
        self.journal.append(Lost(self.lost, time.time()))
        self.offset = self.journal.end()
        self.mark = self.journal.mark(self.offset)
        self.save()

    def _take(self, entry: Entry) -> None:
        if isinstance(entry, Reset):
            self._reset(entry)
        elif isinstance(entry, Lost):
            self.lost = entry.why
        elif isinstance(entry, Damaged):
            self.damage.total += 1
            for monitor in self.monitors.values():
                monitor.add(entry)
        elif isinstance(entry, Begun):
            key = LevelKey(entry.model, entry.group, entry.risk)
            self.pending[entry.id] = key, time.monotonic()
        elif not entry.id or self.pending.pop(entry.id, None) is not None:
            # An outcome that comes twice, or after it was given up, counts once.
            self._of(LevelKey(entry.model, entry.group, entry.risk)).add(entry)

    def _of(self, key: LevelKey) -> Monitor:
        """Return a level's monitor; audits lost before its first one may have been its own."""
        if key not in self.monitors:
            self.monitors[key] = Monitor(key, self.options, self.inputs(key))
            for _ in range(self.damage.of(key)):
                self.monitors[key].add(Damaged())
        return self.monitors[key]

    def _reset(self, reset: Reset) -> None:
        for key in [key for key in self.monitors if key.within(reset)]:
            del self.monitors[key]
        for name in [name for name, (key, _) in self.pending.items() if key.within(reset)]:
            del self.pending[name]
        self.damage.reset(reset)
        if (reset.model, reset.group, reset.risk) == (None, None, None):
            self.lost = ""

    def save(self, *, force: bool = True) -> None:
        """Write the state, atomically, with a digest of itself; without `force`, on an alarm or after much.

        Raises
        ------
        DataError, OSError
            When it cannot be written.
        """
        alarms = frozenset(key for key, monitor in self.monitors.items() if monitor.alarm)
        if self.snapshot is None:
            return
        if not (force or self._grown() >= SAVE_EVERY or alarms != self._saved_alarms):
            return
        content = {
            "schema_version": SCHEMA_VERSION,
            "options": asdict(self.options),
            "offset": self.offset,
            "mark": self.mark,
            "damaged": self.damage.total,
            "damaged_before": self.damage.to_json(),
            "lost": self.lost,
            "pending": {name: list(key) for name, (key, _) in self.pending.items()},
            "monitors": [monitor.to_json() for monitor in self.monitors.values()],
        }
        atomic.write_text(self.snapshot, json.dumps(content | {"digest": _digest(content)}, indent=1) + "\n")
        self._saved_at, self._saved_alarms = self._read(), alarms

    def _grown(self) -> int:
        return self._read() - self._saved_at

    def _read(self) -> int:
        return sum(monitor.audits + monitor.repeats for monitor in self.monitors.values())


def open_monitors(
    journal: Journal,
    options: MonitorOptions | None,
    snapshot: Path | None = None,
    inputs: Inputs | None = None,
) -> LevelMonitors:
    """Restore the monitors of a journal, and read what was added since.

    Parameters
    ----------
    journal : Journal
    options : MonitorOptions or None
        None takes those of the snapshot, or the usual ones.
    snapshot : Path, optional
        One that is missing, damaged or made with other options is not used: the journal has all audits. When
        the journal is empty beside a damaged snapshot, the state is unknown.
    inputs : callable, optional
        Makes the tests of inputs for a level that has none yet.
    """
    made = LevelMonitors(journal, options or MonitorOptions(), inputs or (lambda key: ()), snapshot)
    content = None if snapshot is None else _snapshot(snapshot)
    if content is not None:
        try:
            _restore(made, content, options)
        except (ValueError, LookupError, TypeError, AttributeError, DataError):
            made = LevelMonitors(journal, options or MonitorOptions(), inputs or (lambda key: ()), snapshot)
            made.lost = _lost_with(journal)
    lost, reread = made.lost, made.offset == 0
    made.catch_up()
    if reread:
        # Resets that are older than the loss do not end it.
        made.lost = made.lost or lost
    return made


def open_state(state: str | Path) -> LevelMonitors:
    """Open the monitors of a folder that [monitor] state names, or of a Redis server.

    Raises
    ------
    DataError
        When there are none in the folder.
    """
    journal = journal_at(str(state))
    return open_monitors(journal, None, Path(state) / SNAPSHOT if isinstance(journal, FileJournal) else None)


def journal_at(state: str) -> Journal:
    """Return the journal of a folder that [monitor] state names, or of a Redis server.

    Raises
    ------
    DataError
        When there is none in the folder, or the folder cannot be read.
    """
    if state.startswith(("redis://", "rediss://", "unix://")):
        return RedisJournal(state)
    hint = "Give the folder that [monitor] state of the proxy names."
    try:
        held = os.listdir(state)
    except OSError as error:
        raise DataError(f"{state} cannot be read: {error.strerror}.", hint=hint) from error
    if not {JOURNAL, SNAPSHOT} & set(held):
        raise DataError(f"{state} holds no audits.", hint=hint)
    return FileJournal(Path(state) / JOURNAL)


def _restore(made: LevelMonitors, content: dict[str, Any], options: MonitorOptions | None) -> None:
    made.lost = str(content["lost"])
    kept = MonitorOptions(**content["options"])
    if options not in (None, kept):
        return
    made.options = kept
    monitors = [Monitor.from_json(one, kept) for one in content["monitors"]]
    made.monitors = {monitor.key: monitor for monitor in monitors}
    now = time.monotonic()
    made.pending = {name: (LevelKey(*key), now) for name, key in content["pending"].items()}
    made.damage = Damage.from_json(content["damaged"], content.get("damaged_before", ()))
    made.offset, made.mark = content["offset"], content["mark"]


def _snapshot(path: Path) -> dict[str, Any] | None:
    """Read a snapshot; None when there is none, an empty one when it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("digest") != _digest(content) or content["schema_version"] != SCHEMA_VERSION:
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    found: dict[str, Any] = content
    return found


def _lost_with(journal: Journal) -> str:
    """What a damaged snapshot means: nothing while the journal has the audits."""
    try:
        return "" if journal.end() else _LOST.format("The snapshot is damaged, and the journal is empty.")
    except DataError as error:
        return _LOST.format(error.message)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
