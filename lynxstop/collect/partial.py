"""The traces of an unfinished shard, kept beside it until it is complete.

They lie in files named ``shard-NUMBER-PART.partial``: a digest, then safetensors that hold JSON and arrays. A
file that is damaged or belongs to other settings is left out, and its traces are recorded again.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from itertools import count
from math import inf
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lynxstop.collect.rows import Row
from lynxstop.core.exits import CueEvent, Exit, Reason
from lynxstop.core.types import Generation, Request, Signals, Tokens
from lynxstop.errors import LynxstopError
from lynxstop.recordings import shards
from lynxstop.recordings.schema import Instalment
from lynxstop.recordings.store import Store

_NAME = re.compile(r"shard-(\d+)-(\d+)\.partial")
_DIGEST = hashlib.sha256().digest_size

Arrays = dict[str, NDArray[Any]]
Entry = tuple[dict[str, Any], Arrays]


class TraceRows(NamedTuple):
    """All that a shard holds of one trace."""

    trace: Row
    cues: list[Row]
    features: NDArray[np.float32]
    """Shape (cues, width)."""
    tokens: Tokens


class PartialShard:
    """What is known of an unfinished shard, in memory and in its files.

    Parameters
    ----------
    store : Store
    number : int
        Of the shard.
    key : str
        Of the recording's settings.
    requests : mapping of str to Request
        Of all traces of the shard, by trace id.
    every : float
        Seconds between two savings; 0 saves each trace at once, infinity none.

    Attributes
    ----------
    generated : dict of str to Generation
        Traces whose exits are not forced yet, by trace id.
    recorded : dict of str to TraceRows
        Traces that are done, by trace id.
    """

    def __init__(
        self, store: Store, number: int, key: str, requests: Mapping[str, Request], every: float
    ) -> None:
        self.generated: dict[str, Generation] = {}
        self.recorded: dict[str, TraceRows] = {}
        self._store, self._number, self._key, self._every = store, number, key, every
        self._names: list[str] = []
        self._waiting: list[Entry] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._error: Exception | None = None
        self._saver = threading.Thread(target=self._save_now_and_then, daemon=True)
        free = 0
        for name in files(store, [number]):
            self._names.append(name)
            free = int(name.removesuffix(".partial").rpartition("-")[2]) + 1
            for entry, arrays in _read(store, name, key):
                if entry["id"] in requests:
                    self._take(entry, arrays, requests[entry["id"]])
        self._free = count(free)

    def __enter__(self) -> Self:
        if 0 < self._every < inf:
            self._saver.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._saver.ident is not None:
            self._saver.join()
        if kind is not None:
            with suppress(LynxstopError, OSError):  # the error that ends it says more
                self.save()

    def __len__(self) -> int:
        """Traces that are generated or done."""
        return len(self.generated) + len(self.recorded)

    def add_generated(self, generation: Generation) -> None:
        """Keep a trace whose exits will be forced later.

        Raises
        ------
        DataError
            When an earlier one could not be saved.
        """
        self.generated[generation.request.id] = generation
        self._add([_of_generation(generation)])

    def add_recorded(self, traces: Sequence[TraceRows]) -> None:
        """Keep traces that are done, all of them or none: their exits were forced together.

        Raises
        ------
        DataError
            When an earlier one could not be saved.
        """
        for trace in traces:
            name = trace.trace["trace_id"]
            self.generated.pop(name, None)
            self.recorded[name] = trace
        self._add([_of_recorded(trace) for trace in traces])

    def save(self) -> None:
        """Write what was added since the last time.

        Raises
        ------
        DataError
            When the disk is full.
        """
        with self._lock:
            if not self._waiting or self._every == inf:
                return
            name = f"shard-{self._number:05d}-{next(self._free):04d}.partial"
            self._store.write(name, _pack(self._key, self._waiting))
            self._names.append(name)
            self._waiting = []

    def remove(self) -> None:
        """Remove the files: the shard is complete."""
        for name in self._names:
            self._store.remove(name)

    def _add(self, entries: Sequence[Entry]) -> None:
        if self._error is not None:
            raise self._error
        with self._lock:
            self._waiting.extend(entries)
        if not self._every:
            self.save()

    def _save_now_and_then(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self.save()
            except Exception as error:  # raised where the next trace is added
                self._error = error
                return

    def _take(self, entry: dict[str, Any], arrays: Arrays, request: Request) -> None:
        if "trace" in entry:
            self.generated.pop(entry["id"], None)
            self.recorded[entry["id"]] = TraceRows(
                entry["trace"], entry["cues"], arrays["features"], _tokens(arrays)
            )
        elif entry["id"] not in self.recorded:
            self.generated[entry["id"]] = _generation(entry, arrays, request)


def files(store: Store, numbers: Iterable[int]) -> list[str]:
    """Names of the partial files of these shards, in the order they were written."""
    wanted = set(numbers)
    return sorted(name for name in store.names() if (m := _NAME.fullmatch(name)) and int(m[1]) in wanted)


def ids(store: Store, numbers: Iterable[int], key: str) -> set[str]:
    """Ids of the traces in the partial files of these shards."""
    return {entry["id"] for name in files(store, numbers) for entry, _ in _read(store, name, key)}


def count_kept(store: Store, part: Instalment, shard_size: int) -> int:
    """Return how many traces of an instalment are there, in complete shards and beside the others."""
    done = set(shards.complete(store, part.shards))
    before = ((number - part.shards.start) * shard_size for number in done)
    traces = sum(min(shard_size, part.traces - first) for first in before)
    return traces + len(ids(store, set(part.shards) - done, part.key))


def _pack(key: str, entries: Sequence[Entry]) -> bytes:
    content = json.dumps({"key": key, "entries": [entry for entry, _ in entries]}, default=_plain)
    arrays = {f"{i}.{name}": array for i, (_, own) in enumerate(entries) for name, array in own.items()}
    arrays["content"] = np.frombuffer(content.encode(), np.uint8)
    body = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return hashlib.sha256(body).digest() + body


def _read(store: Store, name: str, key: str) -> list[Entry]:
    try:
        packed = store.read(name)
        if hashlib.sha256(packed[_DIGEST:]).digest() != packed[:_DIGEST]:
            return []
        arrays = load(packed[_DIGEST:])
    except (OSError, SafetensorError):
        return []
    content = json.loads(arrays.pop("content").tobytes())
    if content["key"] != key:
        return []
    parts: list[Arrays] = [{} for _ in content["entries"]]
    for full, array in arrays.items():
        number, _, short = full.partition(".")
        parts[int(number)][short] = array
    return list(zip(content["entries"], parts, strict=True))


def _of_recorded(recorded: TraceRows) -> Entry:
    entry = {"id": recorded.trace["trace_id"], "trace": recorded.trace, "cues": recorded.cues}
    return entry, {"features": recorded.features, **_of_tokens(recorded.tokens)}


def _of_generation(generation: Generation) -> Entry:
    exit, signals = generation.exit, generation.signals
    entry = {
        "id": generation.request.id,
        "thinking_tokens": generation.thinking_tokens,
        "finish": generation.finish,
        "events": [astuple(event) for event in generation.events],
        "exit": None if exit is None else astuple(exit),
        "signals": None if signals is None else [astuple(signal) for signal in signals],
        "exit_positions": generation.exit_positions,
        "prompt_tokens": generation.prompt_tokens,
    }
    arrays: Arrays = {
        "output": np.array(generation.output_ids, np.int64),
        "logprobs": np.array(generation.logprobs, np.float64),
    }
    if generation.features is not None:
        arrays["features"] = generation.features
    if generation.tokens is not None:
        arrays |= _of_tokens(generation.tokens)
    return entry, arrays


def _generation(entry: Mapping[str, Any], arrays: Arrays, request: Request) -> Generation:
    exit, signals = entry["exit"], entry["signals"]
    return Generation(
        request,
        arrays["output"].tolist(),
        entry["thinking_tokens"],
        entry["finish"],
        [CueEvent(*event) for event in entry["events"]],
        None if exit is None else Exit(Reason(exit[0]), *exit[1:]),
        arrays.get("features"),
        None if signals is None else [Signals(*signal) for signal in signals],
        arrays["logprobs"].tolist(),
        _tokens(arrays) if "ids" in arrays else None,
        entry["exit_positions"],
        entry["prompt_tokens"],
    )


def _of_tokens(tokens: Tokens) -> Arrays:
    arrays: Arrays = {"ids": tokens.ids, "thinking": tokens.thinking, "statistics": tokens.statistics}
    return arrays if tokens.skipped is None else arrays | {"skipped": tokens.skipped}


def _tokens(arrays: Arrays) -> Tokens:
    return Tokens(arrays["ids"], arrays["thinking"], arrays["statistics"], arrays.get("skipped"))


def _plain(value: Any) -> Any:
    """A scalar of numpy as Python's."""
    return value.item()
