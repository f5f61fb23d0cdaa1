"""What the engine recorded of tokens: in memory until it is fetched, or in files that outlive its worker.

::

    FOLDER/cues-<process>-<number>.safetensors     one row per recorded token; written whole or not at all
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lynxstop.artifacts.atomic import write_bytes
from lynxstop.errors import DataError

FORMAT = "lynxstop-spool-2"
MEMORY = ":memory:"
"""In place of a folder: keep rows in memory for `RowBuffer.take`."""
_BYTES = 32
"""Of a row without features, about."""


class RecordedRow(NamedTuple):
    """One token: one that completes a cue, or any token of a request whose statistics were asked for.

    Whether a cue is whole shows in the tokens after it. A token recorded twice was read again after a
    preemption: the last row holds.

    Parameters
    ----------
    request : str
        The text given as `lynxstop_record`, or a name made up for the request.
    token : int
        Index of the token among the generated ones; -1 for the last one of the prompt.
    position : int
        Thinking tokens up to and including it.
    statistics : float32 array of shape (1 + NEXT,)
        Score (logit; NaN except at cues), and the statistics of the next token, in nats.
    features : float32 array of shape (width,), or None
        At tokens that complete a cue.
    """

    request: str
    token: int
    position: int
    statistics: NDArray[np.float32]
    features: NDArray[np.float32] | None


class RowBuffer:
    """Keeps rows in memory."""

    def __init__(self) -> None:
        self._rows: list[RecordedRow] = []
        self._lock = threading.Lock()

    def add(self, rows: list[RecordedRow]) -> None:
        """Take rows over."""
        with self._lock:
            self._rows += rows

    def take(self) -> bytes:
        """Return all rows in the format of the files, and forget them; empty when there are none."""
        with self._lock:
            rows, self._rows = self._rows, []
        return _pack(rows) if rows else b""


class RowFiles:
    """Writes rows in files of some `size`; what waits longer than a second is written by a thread.

    Parameters
    ----------
    folder : Path
        Made when missing.
    size : int
        Most bytes that are kept in memory.
    lost : callable, optional
        Called with a number of rows that could not be written.

    Attributes
    ----------
    dropped : int
        Rows lost because a file could not be written.
    """

    def __init__(
        self, folder: Path, size: int = 1 << 22, lost: Callable[[int], None] = lambda rows: None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dropped = 0
        self._size = size
        self._lost = lost
        self._waiting: list[RecordedRow] = []
        self._bytes = 0
        self._lock = threading.Lock()
        self._number = 0
        self._timer: threading.Timer | None = None

    def add(self, rows: list[RecordedRow]) -> None:
        """Take rows over."""
        with self._lock:
            self._waiting += rows
            self._bytes += sum(_BYTES + (0 if row.features is None else row.features.nbytes) for row in rows)
            full = self._bytes >= self._size
            if not full and self._timer is None:
                self._timer = threading.Timer(1.0, self.flush)
                self._timer.daemon = True
                self._timer.start()
        if full:
            self.flush()

    def flush(self) -> None:
        """Write what waits; rows that cannot be written are dropped and counted."""
        with self._lock:
            rows, self._waiting, self._bytes = self._waiting, [], 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if not rows:
                return
            self._number += 1
            path = self.folder / f"cues-{os.getpid()}-{self._number:06}.safetensors"
            try:
                write_bytes(path, _pack(rows))
            except (DataError, OSError):
                self.dropped += len(rows)
                self._lost(len(rows))


def _pack(rows: list[RecordedRow]) -> bytes:
    names: dict[str, int] = {}
    features = [row.features for row in rows if row.features is not None]
    tensors = {
        "request": np.array([names.setdefault(row.request, len(names)) for row in rows], np.int32),
        "index": np.array([row.token for row in rows], np.int32),
        "position": np.array([row.position for row in rows], np.int32),
        "statistics": np.stack([row.statistics for row in rows]),
        "cues": np.array([i for i, row in enumerate(rows) if row.features is not None], np.int32),
        "features": np.stack(features) if features else np.zeros((0, 0), np.float32),
    }
    return save(tensors, {"format": FORMAT, "requests": json.dumps(list(names))})


def read_rows(folder: Path) -> Iterator[RecordedRow]:
    """Read all rows of a folder, in the order of its files.

    Raises
    ------
    DataError
        When a file is damaged or of another version.
    """
    for path in sorted(folder.glob("cues-*.safetensors")):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        yield from unpack(content, str(path))


def unpack(content: bytes, what: str) -> Iterator[RecordedRow]:
    """Read rows from the content of a file; `what` it is is named in errors.

    Raises
    ------
    DataError
        When it is damaged or of another version.
    """
    try:
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        if metadata.get("format") != FORMAT:
            raise DataError(f"{what} was not recorded by this version.")
        names, tensors = json.loads(metadata["requests"]), load(content)
        columns = [tensors[name] for name in ("request", "index", "position", "statistics")]
        cues, features = tensors["cues"], tensors["features"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{what} is damaged and cannot be read.", hint="Record it again.") from error
    at_cues: dict[int, NDArray[np.float32]] = dict(zip(cues.tolist(), features, strict=True))
    for row, (name, index, position, statistics) in enumerate(zip(*columns, strict=True)):
        yield RecordedRow(names[name], int(index), int(position), statistics, at_cues.get(row))
