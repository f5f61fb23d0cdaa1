"""Do decisions depend on the batch or the engine? The same requests recorded in several ways, compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.artifacts.bundle import Bundle
from lynxstop.recordings.storage import Recording
from lynxstop.replay.serving import scores_of


@dataclass(frozen=True)
class Flips:
    """Two recordings of the same requests.

    Attributes
    ----------
    requests : int
    parted : int
        Requests whose texts part somewhere.
    decisions : int
        Decision points before that, in both.
    largest : float
        Largest difference between the two scores of a decision point; NaN without scores.
    flipped : dict
        Level to decisions that differ on the same text.
    exits : dict
        Level to requests that stop at another place, or in one of the two only: flipped on the same text, or
        with other text before it.
    """

    requests: int
    parted: int
    decisions: int
    largest: float
    flipped: dict[str, int]
    exits: dict[str, int]

    def row(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def compare(one: Recording, other: Recording, bundle: Bundle | None) -> Flips:
    """Compare the decisions of a bundle, or the texts alone, on two recordings of the same problems."""
    left, right = _traces(one, bundle), _traces(other, bundle)
    levels = [] if bundle is None else [level for level in bundle.policy.pooled if level.threshold < np.inf]
    names = {f"{level.risk:g}": level.threshold for level in levels}
    flipped, exits = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    parted = decisions = 0
    largest = [np.nan]
    for name in left.keys() & right.keys():
        mine, theirs = left[name], right[name]
        same = _common(mine.ids, theirs.ids)
        parted += same < max(len(mine.ids), len(theirs.ids))
        # What is decided at `seen_at` has read the text up to there.
        count = int((mine.seen[: len(theirs.seen)] < same).sum())
        decisions += count
        scores = mine.scores[:count], theirs.scores[:count]
        largest.extend(np.abs(scores[0] - scores[1]))
        for level, threshold in names.items():
            flipped[level] += int(((scores[0] > threshold) != (scores[1] > threshold)).sum())
            exits[level] += mine.exit(threshold) != theirs.exit(threshold)
    known = [float(value) for value in largest if not np.isnan(value)]
    return Flips(
        requests=len(left.keys() & right.keys()),
        parted=parted,
        decisions=decisions,
        largest=max(known, default=float("nan")),
        flipped=flipped,
        exits=exits,
    )


@dataclass(frozen=True)
class _Trace:
    ids: NDArray[np.int32]
    seen: NDArray[np.int64]
    scores: NDArray[np.float32]

    def exit(self, threshold: float) -> int:
        """Token after which it stops; -1 when it does not."""
        hits = np.flatnonzero(self.scores > threshold)
        return int(self.seen[hits[0]]) if len(hits) else -1


def _traces(data: Recording, bundle: Bundle | None) -> dict[str, _Trace]:
    cues, traces = data.cues(["seen_at"]), data.traces(["trace_id", "cues"])
    seen = cues["seen_at"].to_numpy()
    scores = np.full(len(seen), np.nan, np.float32) if bundle is None else scores_of(bundle, data)
    ends = np.cumsum(traces["cues"].to_numpy())
    pieces = zip(np.split(seen, ends[:-1]), np.split(scores, ends[:-1]), strict=True)
    return {
        name: _Trace(tokens.ids, own, known)
        for name, tokens, (own, known) in zip(
            traces["trace_id"].to_pylist(), data.tokens(), pieces, strict=True
        )
    }


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Length of the common beginning."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length
