"""What was decided about a request, reported to the server that the engine belongs to.

vLLM has no way for a plugin to add to a request's output. So the server names each request that it
asks about (`lynxstop_report`), and the worker writes what it decides into a file of that name, in a folder
that both know. A request about which there is nothing to tell has no file. The file is there before the
answer ends: an exit is reported one step later, and the exit's own tokens take longer.
"""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.engines.vllm.request_options import RequestOptions
from lynxstop.engines.vllm.session_batch import EXIT_KINDS, REASONS

logger = logging.getLogger("vllm.lynxstop")


class ExitReports:
    """Writes the reports of requests, at one process of the engine.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[int, RequestOptions] = {}
        self._coming: deque[tuple[NDArray[np.int64], Tensor, Any]] = deque()
        self._failed = False

    @property
    def waiting(self) -> bool:
        """Whether some request still waits for its report."""
        return bool(self._open)

    def enter(self, slot: int, options: RequestOptions) -> None:
        """Follow a request from now on, in its slot; copies that are still to come show the one before it."""
        for slots, *_ in self._coming:
            slots[slots == slot] = -1
        if options.report is None:
            self._open.pop(slot, None)
            return
        self._open[slot] = options

    def departed(self, options: RequestOptions) -> None:
        """Tell what a new request departs from; it may think to its end without being watched."""
        if options.report is not None and options.departures:
            self._write(options, {})

    def leave(self, slot: int) -> None:
        """Forget the request of a slot; where it has no report yet, its last steps are waited for."""
        if slot in self._open:
            self._read(wait=True)
            self._open.pop(slot, None)

    def observe(self, slots: NDArray[np.int64], exits: Tensor) -> None:
        """Read what the last step decided: `exits` as `SessionBatch.exits` gives it, for these slots.

        From a device it is copied without waiting, and read at a later step. A step may come in portions.
        """
        on_host = exits.device.type == "cpu"
        host = exits if on_host else torch.empty(exits.shape, dtype=exits.dtype, pin_memory=True)
        copied = None
        if not on_host:
            host.copy_(exits, non_blocking=True)
            copied = torch.Event(device=exits.device)
            copied.record()
        self._coming.append((slots.copy(), host, copied))
        self._read(wait=False)

    def settle(self, slots: Sequence[int], exits: Tensor) -> None:
        """Read what requests that are finished have come to, all of it, before they leave."""
        if not self._open.keys().isdisjoint(slots):
            self.observe(np.array(slots), exits)

    def _read(self, *, wait: bool) -> None:
        """Take up the copies that have arrived, in order; all of them if they are waited for."""
        while self._coming:
            slots, exits, copied = self._coming[0]
            if copied is not None and not copied.query():
                if not wait:
                    return
                copied.synchronize()
            self._coming.popleft()
            self._tell(slots, exits)

    def _tell(self, slots: NDArray[np.int64], exits: Tensor) -> None:
        """Report the exits of requests that still wait for their report."""
        numbers = exits.numpy()
        for row in np.flatnonzero(numbers[0]).tolist():
            if (options := self._open.pop(int(slots[row]), None)) is not None:
                tokens, reason = divmod(int(numbers[0, row]), EXIT_KINDS)
                score = float(numbers[1, row : row + 1].view(np.float32)[0])
                self._write(
                    options,
                    {
                        "exit": REASONS[reason],
                        "thinking_tokens": tokens,
                        "score": score if math.isfinite(score) else None,
                        "threshold": options.threshold if math.isfinite(options.threshold) else None,
                        "stopped": options.stops,
                    },
                )

    def _write(self, options: RequestOptions, found: dict[str, Any]) -> None:
        """Write a report; one that cannot be written is missing, and no request is harmed."""
        path = self._folder / str(options.report)
        try:
            written = path.with_suffix(".part")
            written.write_text(json.dumps(found | {"departures": options.departures}), encoding="utf-8")
            written.replace(path)
        except OSError as error:
            if not self._failed:
                self._failed = True
                logger.error("lynxstop cannot report on requests (logged once): %s.", error.strerror)


def read_report(folder: Path, name: str) -> dict[str, Any] | None:
    """Take the report on a request out of the folder; None when there is none, or it is damaged."""
    path = folder / name
    found: Any = None
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
    with suppress(OSError):
        path.unlink()
    return found if isinstance(found, dict) else None
