"""The journal of audits: an append-only log that several workers write and any of them reads.

A line holds one audit as JSON and a checksum. A torn or garbled line is an audit whose outcome is lost: the
reader counts it as a loss, so that damage never looks like good news.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from lynxstop.errors import DataError
from lynxstop.extras import need


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
    saved : int
        Thinking tokens that the exit saved.
    at : float
        Seconds since the epoch, for display only.
    """

    model: str
    group: str | None
    risk: float
    exited: bool
    loss: float
    score: float | None = None
    cues: int = 0
    saved: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Damaged:
    """A line that could not be read."""


Entry = Audit | Damaged


class Journal(Protocol):
    """Where audits are kept."""

    def append(self, audit: Audit) -> None:
        """Add one audit.

        Raises
        ------
        DataError
            When it cannot be kept.
        """

    def read(self, start: int) -> Iterator[tuple[Entry, int]]:
        """Yield entries from an offset on, each with the offset after it."""


def to_line(audit: Audit) -> bytes:
    """One line of the journal."""
    text = json.dumps(asdict(audit), separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def from_line(line: bytes) -> Entry:
    """Read a line; `Damaged` when its checksum or content is wrong."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return Damaged()
        audit = Audit(**json.loads(text))
    except (ValueError, TypeError):
        return Damaged()
    return audit if _sound(audit) else Damaged()


def _sound(audit: Audit) -> bool:
    numbers: list[Any] = [audit.risk, audit.loss, audit.at, audit.cues, audit.saved]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
        return False
    return 0.0 < audit.risk < 1.0 and 0.0 <= audit.loss <= 1.0


def _lock(handle: int) -> None:
    """Wait for the file's lock, released when it is closed; without it, half-written lines look torn."""
    try:
        import fcntl
    except ModuleNotFoundError:  # not a POSIX system
        return
    fcntl.flock(handle, fcntl.LOCK_EX)


class FileJournal:
    """A journal in a file; several processes append to it, one at a time under a lock.

    Parameters
    ----------
    path : Path
        Made with its folder when it is missing, readable by its owner only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, audit: Audit) -> None:
        """Add one audit.

        Raises
        ------
        DataError
            When the file cannot be written.
        """
        line = to_line(audit)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _lock(handle)
                size = os.fstat(handle).st_size
                torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
                written = os.write(handle, b"\n" + line if torn else line)
            finally:
                os.close(handle)
        except OSError as error:
            raise DataError(f"The audit journal {self.path} cannot be written: {error.strerror}.") from error
        if written < len(line):
            raise DataError(f"The audit journal {self.path} was cut short: is the disk full?")

    def read(self, start: int) -> Iterator[tuple[Entry, int]]:
        """Yield entries from a byte offset on; a last line without its end is left for later.

        Raises
        ------
        DataError
            When the file is shorter than `start`, or cannot be read.
        """
        if not self.path.exists():
            if start:
                raise DataError(f"The audit journal {self.path} is gone.", hint="Reset the monitor.")
            return
        if self.path.stat().st_size < start:
            raise DataError(f"The audit journal {self.path} was cut short.", hint="Reset the monitor.")
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                start += len(line)
                yield from_line(line), start


class RedisJournal:
    """A journal in a list of a Redis server, shared by replicas.

    Parameters
    ----------
    url : str
        As ``redis://host:port/0``.
    key : str
    """

    def __init__(self, url: str, key: str = "lynxstop:audits") -> None:
        redis = need("redis", "redis")
        self._client = redis.Redis.from_url(url, socket_timeout=5.0, socket_connect_timeout=5.0)
        self._failures: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        self._key = key

    def append(self, audit: Audit) -> None:
        """Add one audit.

        Raises
        ------
        DataError
            When the server cannot be reached.
        """
        try:
            self._client.rpush(self._key, to_line(audit))
        except self._failures as error:
            raise DataError(f"Redis did not keep an audit: {type(error).__name__}.") from error

    def read(self, start: int) -> Iterator[tuple[Entry, int]]:
        """Yield entries from an index on.

        Raises
        ------
        DataError
            When the server cannot be reached, or holds fewer entries than were read before.
        """
        try:
            if self._client.llen(self._key) < start:
                raise DataError("The audit journal in Redis was cut short.", hint="Reset the monitor.")
            lines = self._client.lrange(self._key, start, -1)
        except self._failures as error:
            raise DataError(f"Redis did not answer: {type(error).__name__}.") from error
        for number, line in enumerate(lines, start=start + 1):
            yield from_line(line), number
