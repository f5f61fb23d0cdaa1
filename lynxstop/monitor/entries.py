"""Entries of the journal of audits, and how one is written as a line.

A line holds one entry as JSON and a checksum.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Audit:
    """One audited request, without content.

    Parameters
    ----------
    model : str
        Name of the served model.
    group : str or None
        Group of the certified level.
    risk : float
        Certified level that the request was served at.
    exited : bool
        Whether it was stopped.
    loss : float
        In [0, 1]; 0 without an exit, 1 when the comparison failed.
    score : float or None
        At the first decision point; None without one.
    cues : int
        Decision points seen before the exit or the end.
    at : float
        Seconds since the epoch, for display only.
    id : str
        That of the `Begun` before it; empty when none was needed.
    tokens : int
        What the audit itself made the server generate.
    repeat : bool
        Whether two full answers to one prompt were compared: nothing was stopped; `loss` says whether they
        differ.
    threshold : float or None
        That the request was served at; None when it is not finite, or the audit was given up.
    exit_score : float or None
        Score that exceeded it.
    prompt : str
        Keyed digest of the prompt; empty where it is not text.
    calibrated : bool
        Whether the prompt is one of the calibration data.
    """

    model: str
    group: str | None
    risk: float
    exited: bool
    loss: float
    score: float | None = None
    cues: int = 0
    at: float = 0.0
    id: str = ""
    tokens: int = 0
    repeat: bool = False
    threshold: float | None = None
    exit_score: float | None = None
    prompt: str = ""
    calibrated: bool = False

    @property
    def given_up(self) -> bool:
        """Whether its process was gone before its outcome: nothing is known of its inputs."""
        return self.exited and self.threshold is None and self.score is None and not self.cues


@dataclass(frozen=True, slots=True)
class Begun:
    """A stopped request is being audited; an `Audit` of the same id follows, or its outcome is lost."""

    id: str
    model: str
    group: str | None
    risk: float


@dataclass(frozen=True, slots=True)
class Reset:
    """Start again: earlier audits of these levels no longer count; None stands for all.

    Parameters
    ----------
    model, group, risk
        Which levels.
    at : float
        Seconds since the epoch, for display only.
    """

    model: str | None = None
    group: str | None = None
    risk: float | None = None
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Lost:
    """A reader noticed that the journal before this entry is not the one that it had read.

    Parameters
    ----------
    why : str
        In a sentence.
    at : float
        Seconds since the epoch, for display only.
    """

    why: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Damaged:
    """A line that could not be read."""


Written = Audit | Begun | Reset | Lost
Entry = Written | Damaged
_KINDS: dict[str, type[Audit] | type[Begun] | type[Reset] | type[Lost]] = {
    "audit": Audit,
    "begun": Begun,
    "reset": Reset,
    "lost": Lost,
}


def to_line(entry: Written) -> bytes:
    """One line of the journal."""
    kind = next(name for name, made in _KINDS.items() if isinstance(entry, made))
    content = asdict(entry) if kind == "audit" else {"kind": kind, **asdict(entry)}
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_line(line: bytes) -> list[Entry]:
    """Read a line; one that is damaged stands for as many entries as begin in it."""
    entry = from_line(line)
    return [entry] * max(1, line.count(b'{"')) if isinstance(entry, Damaged) else [entry]


def from_line(line: bytes) -> Entry:
    """Read a line; `Damaged` when its checksum or content is wrong."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return Damaged()
        content = json.loads(text)
        entry = _KINDS[content.pop("kind", "audit")](**content)
    except (ValueError, TypeError, LookupError, AttributeError):
        return Damaged()
    return entry if _sound(entry) else Damaged()


def _sound(entry: Written) -> bool:
    if isinstance(entry, Lost):
        return isinstance(entry.why, str)
    if isinstance(entry, Reset):
        return entry.risk is None or isinstance(entry.risk, float)
    numbers: list[Any] = [entry.risk]
    if isinstance(entry, Audit):
        numbers += [entry.loss, entry.at, entry.cues, entry.tokens]
        numbers += [value for value in (entry.score, entry.threshold, entry.exit_score) if value is not None]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
        return False
    texts = [entry.model, entry.id, *([entry.prompt] if isinstance(entry, Audit) else [])]
    if not all(isinstance(text, str) for text in texts):
        return False
    return 0.0 < entry.risk < 1.0 and (isinstance(entry, Begun) or 0.0 <= entry.loss <= 1.0)
