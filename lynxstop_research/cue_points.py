"""Recorded decision points by the word they stand for: a cue itself, or what opens after a boundary."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.points import BOUNDARY, CUE
from lynxstop.core.types import Tokens
from lynxstop.errors import DataError
from lynxstop.extras import need
from lynxstop.probes.rivals import Folds
from lynxstop.probes.search import split
from lynxstop.replay.parts import Recorded
from lynxstop_research.openers import openings

PARAGRAPH = "\n\n"
"""How a paragraph break is written among words."""

Decode = Callable[[Sequence[int]], str]

_AHEAD = 16
"""Tokens read after a boundary to see what opens there."""
_BREAK = re.compile(r"\n[ \t\r]*\n[ \t\r\n]*$")
_STATISTICS = ("entropy", "top_gap", "end_margin", "min_logprob", "mean_logprob", "position")
_PENALTY = 0.01


@dataclass(frozen=True)
class WordExits:
    """Decision points that belong to a word, all arrays of shape (points,), in the order of the traces.

    `probe` and `statistics` are out-of-fold logits of an answer that agrees, from the hidden states and from
    log-probabilities and position; NaN where nothing could be learnt.
    """

    words: tuple[frozenset[str], ...]
    trace: NDArray[np.int64]
    agrees: NDArray[np.bool_]
    saves: NDArray[np.int64]
    probe: NDArray[np.float64]
    statistics: NDArray[np.float64]
    tokens: int
    traces: int

    @property
    def scores(self) -> NDArray[np.float64]:
        """The probe's logits; those of the statistics where no hidden states were recorded."""
        return self.probe if np.isfinite(self.probe).all() else self.statistics

    def of(self, words: Iterable[str]) -> NDArray[np.bool_]:
        """Points that stand for one of the words."""
        wanted = frozenset(words)
        return np.array([not wanted.isdisjoint(own) for own in self.words], bool)


def exits_at_words(data: Recorded, words: Iterable[str], decode: Decode | None, seed: int = 0) -> WordExits:
    """Find the decision points of words, and score them by cross-validation over whole problems.

    Parameters
    ----------
    data : Recorded
    words : iterable of str
        Lower case; `PARAGRAPH` for a blank line.
    decode : callable, optional
        From token ids to text; without it only recorded cues are found.
    """
    wanted = frozenset(words)
    traces = data.traces()
    counts = traces["cues"].to_numpy()
    cues = data.cues()
    owner = np.repeat(np.arange(len(traces)), counts)
    found = _words(data, cues, counts, wanted, decode)
    rows = np.array([bool(own) for own in found], bool)
    agrees = np.array(cues["agrees"].to_pylist(), bool)[rows]
    full = traces["thinking_tokens"].to_numpy()
    problems = np.array(traces["problem_id"].to_pylist(), object)[owner][rows]
    probe, statistics = _out_of_fold(data, cues, rows, agrees, problems, seed)
    return WordExits(
        words=tuple(own for own in found if own),
        trace=owner[rows],
        agrees=agrees,
        saves=full[owner[rows]] - cues["thinking_at_exit"].to_numpy()[rows],
        probe=probe,
        statistics=statistics,
        tokens=int(full.sum()),
        traces=len(traces),
    )


def _words(
    data: Recorded, cues: Any, counts: NDArray[np.int64], wanted: frozenset[str], decode: Decode | None
) -> list[frozenset[str]]:
    recorded = set(data.meta.cue_words) | ({PARAGRAPH} if data.meta.cue_paragraph else set())
    others = wanted - {word.lower() for word in recorded}
    kinds, names, places = (cues[name].to_pylist() for name in ("kind", "word", "index"))
    found: list[frozenset[str]] = []
    streams: Iterator[Tokens | None] = data.tokens() if decode else iter([None] * len(counts))
    for count, tokens in zip(counts.tolist(), streams, strict=True):
        for row in range(len(found), len(found) + count):
            own: set[str] = set()
            if kinds[row] & CUE:
                own |= wanted & {names[row]}
            if kinds[row] & BOUNDARY and decode and tokens is not None:
                own |= others.intersection(_opened(tokens.ids, places[row], decode))
            found.append(frozenset(own))
    return found


def _opened(ids: NDArray[np.int32], index: int, decode: Decode) -> Iterator[str]:
    """Return what opens directly after a boundary token, and whether the token makes a paragraph."""
    following = decode(ids[index + 1 : index + 1 + _AHEAD].tolist())
    bare = following.lstrip(" \t\r")
    if not bare.startswith("\n"):
        yield from openings(re.sub(r"^[\W_]+", "", bare))
    before = decode(ids[max(0, index - 4) : index].tolist())
    upto = decode(ids[max(0, index - 4) : index + 1].tolist())
    if _BREAK.search(upto) and not _BREAK.search(before):
        yield PARAGRAPH


def _out_of_fold(
    data: Recorded,
    cues: Any,
    rows: NDArray[np.bool_],
    agrees: NDArray[np.bool_],
    problems: NDArray[Any],
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    unknown = np.full(len(agrees), np.nan)
    if not rows.any():
        return unknown, unknown
    try:
        parts = split(agrees, problems, 5, seed)
    except DataError:
        return unknown, unknown
    columns = [cues[name].to_numpy(zero_copy_only=False).astype(np.float64)[rows] for name in _STATISTICS]
    statistics = np.nan_to_num(np.stack(columns, axis=1), posinf=1e6, neginf=-1e6)
    return _logits(data.features(rows=rows), agrees, parts, _PENALTY), _logits(statistics, agrees, parts, 1.0)


def _logits(
    features: NDArray[Any], agrees: NDArray[np.bool_], parts: Folds, penalty: float
) -> NDArray[np.float64]:
    linear, pipeline = need("sklearn.linear_model", "calibrate"), need("sklearn.pipeline", "calibrate")
    scaler = need("sklearn.preprocessing", "calibrate").StandardScaler
    found = np.full(len(agrees), np.nan)
    if not features.shape[1] or not np.isfinite(features).all():
        return found
    for train, test in parts:
        model = pipeline.make_pipeline(scaler(), linear.LogisticRegression(C=penalty, max_iter=1000))
        found[test] = model.fit(features[train], agrees[train]).decision_function(features[test])
    return found
