"""The journal of audits: an append-only log that several workers write and any of them reads.

An incomplete or garbled line is an audit whose outcome is lost: the
reader counts it as a loss, so that damage never looks like good news. An audit that takes long is announced
first (`Begun`), so that one whose process is killed is not forgotten.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from lynxstop.errors import DataError
from lynxstop.extras import need
from lynxstop.monitor.entries import Entry, Written, from_line, read_line, to_line

_APPEND_ONCE = """
if redis.call("set", KEYS[2], 1, "NX", "EX", 86400) then redis.call("rpush", KEYS[1], ARGV[1]) end
"""
_MARKED = 256
"""Bytes before an offset by which a journal is known."""


class Journal(Protocol):
    """Where audits are kept."""

    def append(self, entry: Written) -> None:
        """Add one entry.

        Raises
        ------
        DataError
            When it cannot be kept.
        """

    def read(self, start: int) -> Iterator[tuple[Entry, int]]:
        """Yield entries from an offset on, each with the offset after it.

        Raises
        ------
        DataError
            When the journal cannot be read, or is shorter.
        """

    def mark(self, offset: int) -> str:
        """Digest of what lies right before an offset, by which a replaced journal is known.

        Raises
        ------
        DataError
            When the journal cannot be read, or is shorter.
        """

    def end(self) -> int:
        """Offset after the last whole entry.

        Raises
        ------
        DataError
            When the journal cannot be read.
        """

    def salt(self) -> bytes:
        """Return the secret of this journal, by which digests of prompts are keyed; made when first asked.

        Raises
        ------
        DataError
            When it cannot be read or kept.
        """


def _lock(handle: int) -> None:
    """Wait for the file's lock, released when it is closed; without it, lines are seen half-written."""
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

    def append(self, entry: Written) -> None:
        """Add one entry."""
        line = to_line(entry)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _lock(handle)
                size = os.fstat(handle).st_size
                torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
                whole = b"\n" + line if torn else line
                if cut := os.write(handle, whole) < len(whole):
                    # What is left of a line would count as a loss, and the line is to be given again.
                    os.ftruncate(handle, size)
            finally:
                os.close(handle)
        except OSError as error:
            raise DataError(f"The audit journal {self.path} cannot be written: {error.strerror}.") from error
        if cut:
            raise DataError(f"The audit journal {self.path} was cut short: is the disk full?")

    def read(self, start: int) -> Iterator[tuple[Entry, int]]:
        """Yield entries from a byte offset on; a last line without its end is left for later."""
        if not self.path.exists():
            if start:
                raise DataError(f"The audit journal {self.path} is gone.", hint="Reset the monitor.")
            return
        if self.path.stat().st_size < start:
            raise DataError(f"The audit journal {self.path} was cut short.", hint="Reset the monitor.")
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    start += len(line)
                    for entry in read_line(line):
                        yield entry, start
        except OSError as error:
            raise DataError(f"The audit journal {self.path} cannot be read: {error.strerror}.") from error

    def mark(self, offset: int) -> str:
        """Digest of the bytes before an offset."""
        begin = max(0, offset - _MARKED)
        try:
            with self.path.open("rb") as file:
                file.seek(begin)
                found = file.read(offset - begin)
        except FileNotFoundError:
            found = b""
        except OSError as error:
            raise DataError(f"The audit journal {self.path} cannot be read: {error.strerror}.") from error
        if len(found) < offset - begin:
            raise DataError(
                f"The audit journal {self.path} is gone or was cut short.", hint="Reset the monitor."
            )
        return hashlib.sha256(found).hexdigest()[:16]

    def end(self) -> int:
        """Offset after the last whole line."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise DataError(f"The audit journal {self.path} cannot be read: {error.strerror}.") from error
        return content.rfind(b"\n") + 1

    def salt(self) -> bytes:
        """Return what the file `salt` beside the journal holds."""
        path = self.path.parent / "salt"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                _lock(handle)
                found = os.read(handle, 64) or secrets.token_hex(16).encode()
                os.pwrite(handle, found, 0)
            finally:
                os.close(handle)
        except OSError as error:
            raise DataError(f"{path} cannot be read or written: {error.strerror}.") from error
        return found


class RedisJournal:
    """A journal in a list of a Redis server, shared by replicas.

    Parameters
    ----------
    url : str
        As ``redis://host:port/0``.
    key : str
    seconds : float
        Longest wait for an answer.
    """

    def __init__(self, url: str, key: str = "lynxstop:audits", seconds: float = 5.0) -> None:
        redis = need("redis", "redis")
        self._client = redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)
        self._failures: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        self._key = key
        self._unsure: tuple[bytes, str] | None = None

    def append(self, entry: Written) -> None:
        """Add one entry; once, though a server that did not answer may have kept it already.

        After an error, the same entry is to be given again.
        """
        line = to_line(entry)
        name = self._unsure[1] if self._unsure and self._unsure[0] == line else secrets.token_hex(16)
        self._unsure = line, name
        try:
            self._client.eval(_APPEND_ONCE, 2, self._key, f"{self._key}:{name}", line)
        except self._failures as error:
            raise DataError(f"Redis did not keep an audit: {type(error).__name__}.") from error
        self._unsure = None

    def read(self, start: int) -> Iterator[tuple[Entry, int]]:
        """Yield entries from an index on."""
        try:
            if self._client.llen(self._key) < start:
                raise DataError("The audit journal in Redis was cut short.", hint="Reset the monitor.")
            lines = self._client.lrange(self._key, start, -1)
        except self._failures as error:
            raise DataError(f"Redis did not answer: {type(error).__name__}.") from error
        for number, line in enumerate(lines, start=start + 1):
            yield from_line(line), number

    def mark(self, offset: int) -> str:
        """Digest of the entry before an index."""
        if offset == 0:
            return ""
        try:
            found = self._client.lindex(self._key, offset - 1)
        except self._failures as error:
            raise DataError(f"Redis did not answer: {type(error).__name__}.") from error
        if found is None:
            raise DataError("The audit journal in Redis was cut short.", hint="Reset the monitor.")
        return hashlib.sha256(found).hexdigest()[:16]

    def end(self) -> int:
        """Number of entries."""
        try:
            return int(self._client.llen(self._key))
        except self._failures as error:
            raise DataError(f"Redis did not answer: {type(error).__name__}.") from error

    def salt(self) -> bytes:
        """Return what the key with the suffix `:salt` holds."""
        try:
            self._client.set(f"{self._key}:salt", secrets.token_hex(16), nx=True)
            return bytes(self._client.get(f"{self._key}:salt"))
        except self._failures as error:
            raise DataError(f"Redis did not answer: {type(error).__name__}.") from error
