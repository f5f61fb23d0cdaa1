"""What the engine recorded of cues, in files that outlive its worker.

::

    FOLDER/cues-<process>-<number>.safetensors     one row per cue candidate; written whole or not at all
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lynxstop.artifacts.atomic import write_bytes
from lynxstop.errors import DataError

FORMAT = "lynxstop-spool-1"
STATISTICS = ("score", "entropy", "top_gap", "end_margin")


class Recorded(NamedTuple):
    """One token that completes a cue; whether the cue is whole shows in the tokens behind it.

    Parameters
    ----------
    request : str
        The text given as `lynxstop_record`, or a name made up for the request.
    token : int
        Index of the token among the generated ones.
    position : int
        Thinking tokens up to and including it.
    statistics : float32 array of shape (4,)
        Score (logit), and entropy, top gap and end margin of the next token, in nats.
    features : float32 array of shape (width,)
    """

    request: str
    token: int
    position: int
    statistics: NDArray[np.float32]
    features: NDArray[np.float32]


class Spool:
    """Writes rows in files of at most `rows`; what waits longer than a second is written by a thread.

    Parameters
    ----------
    folder : Path
        Made when missing.
    rows : int
        Most rows that are kept in memory.

    Attributes
    ----------
    dropped : int
        Rows lost because a file could not be written.
    """

    def __init__(self, folder: Path, rows: int = 1024) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dropped = 0
        self._rows = rows
        self._waiting: list[Recorded] = []
        self._lock = threading.Lock()
        self._number = 0
        self._timer: threading.Timer | None = None

    def add(self, rows: list[Recorded]) -> None:
        """Take rows over."""
        with self._lock:
            self._waiting += rows
            full = len(self._waiting) >= self._rows
            if not full and self._timer is None:
                self._timer = threading.Timer(1.0, self.flush)
                self._timer.daemon = True
                self._timer.start()
        if full:
            self.flush()

    def flush(self) -> None:
        """Write what waits; rows that cannot be written are dropped and counted."""
        with self._lock:
            rows, self._waiting = self._waiting, []
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if not rows:
                return
            self._number += 1
            path = self.folder / f"cues-{os.getpid()}-{self._number:06}.safetensors"
            tensors = {
                "index": np.array([row.token for row in rows], np.int32),
                "position": np.array([row.position for row in rows], np.int32),
                "statistics": np.stack([row.statistics for row in rows]),
                "features": np.stack([row.features for row in rows]),
            }
            names = json.dumps([row.request for row in rows])
            try:
                write_bytes(path, save(tensors, {"format": FORMAT, "requests": names}))
            except (DataError, OSError):
                self.dropped += len(rows)


def read_spool(folder: Path) -> Iterator[Recorded]:
    """Read all rows of a spool, in the order of its files.

    Raises
    ------
    DataError
        When a file is damaged or of another version.
    """
    for path in sorted(folder.glob("cues-*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise DataError(f"{path} is not a spool of this version.")
                names = json.loads(metadata["requests"])
                columns = [file.get_tensor(name) for name in ("index", "position", "statistics", "features")]
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            raise DataError(f"{path} is damaged and cannot be read.", hint="Record it again.") from error
        for name, index, position, statistics, features in zip(names, *columns, strict=True):
            yield Recorded(name, int(index), int(position), statistics, features)
