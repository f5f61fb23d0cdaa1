"""A recorded data set: opened whole and checked, or refused."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.types import Tokens
from lynxstop.errors import DataError, StepError
from lynxstop.notebook import table_html
from lynxstop.recordings import shards
from lynxstop.recordings.content import Content, Stored, check_shard
from lynxstop.recordings.meta_file import read_meta
from lynxstop.recordings.schema import Meta
from lynxstop.recordings.store import Store, store_at


class Recording:
    """Full traces, their cue events and the features there; make one with `open`.

    Nothing but the ids of the traces is held until a table is asked for.

    Attributes
    ----------
    path : Path or str
        Folder or URL.
    meta : Meta
        How it was recorded.
    """

    def __init__(self, path: Path | str, meta: Meta, content: Content) -> None:
        self.path = path
        self.meta = meta
        self._content = content

    @classmethod
    def open(cls, path: str | Path, *, partial: bool = False, verify: bool = True) -> Self:
        """Open a recorded data set.

        Parameters
        ----------
        path : path or URL
            Of what lies in an object store, files are copied into a local cache when they are read.
        partial : bool
            Take the complete shards of an unfinished collection instead of refusing it.
        verify : bool
            Compare all files with their digests; without it only shapes, columns and identity are checked.

        Raises
        ------
        StepError
            When there is no data set, or an unfinished one.
        DataError
            When a shard is missing, damaged, of another recording or of another version.
        """
        store = store_at(path)
        meta = read_meta(store)
        done = range(meta.shards) if meta.finished else shards.complete(store, range(meta.shards))
        if not meta.finished and not (partial and done):
            raise StepError(
                f"The collection in {path} is unfinished: {len(done)} of {meta.shards} shards are complete.",
                hint="Run the same `lynxstop collect` command again to finish it.",
            )
        if meta.finished:
            _check_files(store, meta.digests or {})
        parts = [
            check_shard(store, meta, number, part, verify)
            for part in meta.instalments
            for number in part.shards
            if number in done
        ]
        ids = [name for part in parts for name in part.trace_ids]
        if len(set(ids)) != len(ids):
            raise DataError(f"A trace occurs twice in {path}.", hint="Collect into a new folder.")
        place = path if isinstance(path, Path) or "://" in path else Path(path)
        return cls(place, meta, Stored(store, meta.width, parts))

    def traces(self, columns: Sequence[str] | None = None) -> Any:
        """The trace table: a pyarrow table with the columns of `lynxstop.recordings.schema.TRACES`.

        Parameters
        ----------
        columns : sequence of str, optional
            Read only these; all by default, which are then held in memory.
        """
        return self._content.table("traces", columns)

    def cues(self, columns: Sequence[str] | None = None) -> Any:
        """The cue table: a pyarrow table with the columns of `lynxstop.recordings.schema.CUES`, by trace.

        Parameters
        ----------
        columns : sequence of str, optional
            Read only these; all by default, which are then held in memory.
        """
        return self._content.table("cues", columns)

    def _repr_html_(self) -> str:
        traces, cues = self.traces(["problem_id", "thinking_tokens"]), self.cues(["agrees"])
        agreed = [value for value in cues["agrees"].to_pylist() if value is not None]
        rows = [
            ("problems", f"{len(self.problem_ids):,}"),
            ("traces", f"{traces.num_rows:,}"),
            ("decision points", f"{cues.num_rows:,}"),
            ("thinking tokens", f"{sum(traces['thinking_tokens'].to_pylist()):,}"),
            ("exit answers that agree", f"{sum(agreed) / len(agreed):.1%}" if agreed else "unknown"),
            ("layers", ", ".join(map(str, self.layers)) or "none"),
            ("engine", f"{self.meta.engine}, {self.meta.dtype}"),
        ]
        return table_html(f"Recording {self.path}", ("", ""), rows)

    @property
    def layers(self) -> tuple[int, ...]:
        """Recorded layers, ascending, numbered as in `output_hidden_states`."""
        return self.meta.layers

    def features(
        self, layers: Sequence[int] | None = None, rows: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Read features, only as much as is asked for.

        Parameters
        ----------
        layers : sequence of int, optional
            Recorded layers to take; all by default.
        rows : array of bool, shape (cues,), optional
            Cues to take; all by default.

        Returns
        -------
        ndarray
            float32, shape (cues taken, layers taken * hidden): row i belongs to row i of the cue table.

        Raises
        ------
        DataError
            When a layer was not recorded.
        """
        wanted = self.layers if layers is None else tuple(layers)
        if missing := [layer for layer in wanted if layer not in self.layers]:
            raise DataError(
                f"Layers {missing} were not recorded; recorded: {list(self.layers)}.",
                hint="Choose recorded layers, or collect again with these.",
            )
        hidden, count = self.meta.hidden, self._content.cue_count
        mask = np.ones(count, dtype=bool) if rows is None else rows
        result = np.empty((int(mask.sum()), len(wanted) * hidden), np.float32)
        read = written = 0
        for part in self._content.features():
            chosen = mask[read : read + len(part)]
            target = result[written : written + int(chosen.sum())]
            for place, layer in enumerate(wanted):
                start = self.layers.index(layer) * hidden
                target[:, place * hidden : (place + 1) * hidden] = part[:, start : start + hidden][chosen]
            read, written = read + len(part), written + len(target)
        return result

    def tokens(self) -> Iterator[Tokens]:
        """Read every trace's tokens and their statistics, in the order of the trace table, shard by shard."""
        return self._content.tokens()

    @property
    def digest(self) -> str:
        """SHA-256 over settings and files: equal for equal data, wherever and whenever it was recorded."""
        content = json.dumps([self.meta.key, self.meta.digests], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def problem_ids(self) -> tuple[str, ...]:
        """Ids of the problems, each once, in the order of the traces."""
        return tuple(dict.fromkeys(self.traces(["problem_id"])["problem_id"].to_pylist()))

    @property
    def prompts(self) -> tuple[str, ...]:
        """Digests of the prompts, each once; those of recordings from before there were any are missing."""
        traces, name = self.traces(), "prompt_sha256"
        known = traces[name].to_pylist() if name in traces.column_names else []
        return tuple(dict.fromkeys(filter(None, known)))

    @property
    def samples(self) -> tuple[int, int]:
        """Fewest and most traces of a problem; they differ when an append gave some problems more."""
        counts = Counter(self.traces(["problem_id"])["problem_id"].to_pylist()).values()
        return min(counts), max(counts)

    @property
    def whole(self) -> bool:
        """Whether every cue event has its forced exit; a certificate needs that, training does not."""
        counts = self.traces(["events", "cues"])
        return bool(np.array_equal(counts["events"].to_numpy(), counts["cues"].to_numpy()))


def _check_files(store: Store, digests: dict[str, str]) -> None:
    """Refuse missing and additional shards; the digests themselves are compared where the shards are read."""
    found = {name for name in store.names() if name.endswith((".parquet", ".safetensors"))}
    if strange := sorted({name for name in found if not name.startswith(".")} ^ digests.keys()):
        what = "is missing" if strange[0] in digests else "does not belong to this data set"
        raise DataError(
            f"{store}/{strange[0]} {what}.", hint="Restore the folder from a copy, or collect again."
        )
