"""Cue words in recorded traces: how frequent, how well an exit there is predicted, and which to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.cues import CUE_SETS, CueSet, find_cues
from lynxstop.core.first_exit import exit_steps, sums_at
from lynxstop.errors import DataError
from lynxstop.extras import need
from lynxstop.replay.parts import Recorded
from lynxstop_research.cue_points import PARAGRAPH, Decode, WordExits, exits_at_words
from lynxstop_research.openers import frequent_openers, opening_counts

_EARNS = 0.01
"""Share of the thinking tokens that a further cue has to save in addition."""
_GRID = 64
"""Quantiles of the scores that are tried as thresholds: few, so that chance chooses among few."""
_SIDE = 10
"""Points of either outcome that an AUC needs."""
_OFTEN = 0.1
"""Share of the traces in which a known word must occur to be proposed unmeasured."""


@dataclass(frozen=True)
class Word:
    """A candidate and what is known of it; NaN where the data cannot tell.

    Parameters
    ----------
    word : str
        Lower case; two line breaks stand for a paragraph break.
    sets : tuple of str
        Named cue sets it is in.
    per_trace : float
        Cues it would give, per trace.
    traces : float
        Share of traces in which it would give one.
    opens : float
        Share of its occurrences that open a sentence or line.
    first_at, middle_at : float
        Median place of its first occurrence in a trace, and of all, as a share of the thinking's characters.
    points : int
        Recorded exits at it.
    agree : float
        Share of them whose answer agrees with the full one.
    probe_auc, statistics_auc : float
        How well hidden states, and log-probabilities with the position, predict which.
    """

    word: str
    sets: tuple[str, ...]
    per_trace: float
    traces: float
    opens: float
    first_at: float
    middle_at: float
    points: int = 0
    agree: float = math.nan
    probe_auc: float = math.nan
    statistics_auc: float = math.nan


@dataclass(frozen=True)
class CueWordReport:
    """Candidates, the most frequent first, and the proposed set.

    `basis` is "measured" when exits decided, "known" when only named sets and frequencies did. `saved` is the
    share of thinking tokens that first exits at the proposed cues save at the risk, out of fold.
    """

    words: tuple[Word, ...]
    proposal: CueSet
    basis: str
    saved: float
    risk: float
    traces: int

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "traces": self.traces,
            "candidates": [asdict(word) for word in self.words],
            "proposal": {"words": list(self.proposal.words), "paragraph": self.proposal.paragraph},
            "basis": self.basis,
            "risk": self.risk,
            "saved": self.saved,
        }

    def as_toml(self) -> str:
        """Return the proposal as the `[cues]` section of a recipe."""
        words = ", ".join(_quoted(word) for word in self.proposal.words)
        how = f"at a risk of {self.risk:g} first exits at them save {self.saved:.1%}, out of fold"
        lines = [
            f"# Proposed from {self.traces} recorded traces: "
            + (how if self.basis == "measured" else "known cue words by frequency, no exit measured"),
            "[cues]",
            f"words = [{words}]",
        ]
        return "\n".join([*lines, *(["paragraph = true"] if self.proposal.paragraph else [])]) + "\n"


def search(
    data: Recorded,
    decode: Decode | None = None,
    *,
    risk: float = 0.05,
    least: float = 0.05,
    most: int = 40,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> CueWordReport:
    """Find candidates, measure what can be measured, and propose a cue set.

    A measured proposal grows greedily: the word whose points, added to those of the set, let first exits on
    out-of-fold scores save most at the given share of losses, as long as one adds a hundredth of all thinking
    tokens. It is a choice, not a promise: certify the set on other problems.

    Parameters
    ----------
    data : Recorded
    decode : callable, optional
        From token ids to text; needed to measure words that are not recorded cues.
    risk : float
        Share of traces whose answer may change.
    least : float
        Share of traces in which a word must open a sentence to be a candidate.
    most : int
        Candidates.

    Raises
    ------
    DataError
        When nothing can be proposed.
    """
    thoughts = [_thought(text, data.meta) for text in data.traces()["text"].to_pylist()]
    starts = opening_counts(thoughts)
    recorded = [word.lower() for word in data.meta.cue_words]
    known = dict.fromkeys(word for named in CUE_SETS.values() for word in named.words if word in starts)
    words = list(dict.fromkeys([*recorded, *known, *frequent_openers(thoughts, least, most), PARAGRAPH]))
    texts = []
    for number, word in enumerate(words):
        texts.append(_of_text(word, thoughts, starts[word]))
        progress("words", number + 1, len(words))
    texts = [word for word in texts if word.traces >= least or word.word in recorded]
    exits = exits_at_words(data, [word.word for word in texts], decode, seed)
    progress("exits", 1, 1)
    rows = sorted(
        (_measured(word, exits) for word in texts), key=lambda word: (-word.traces, -word.per_trace)
    )
    chosen, saved = _greedy([word.word for word in rows], exits, risk)
    basis = "measured" if chosen else "known"
    if not chosen:
        chosen, saved = _by_name(rows), math.nan
    if not chosen:
        raise DataError(
            "These traces show neither known cue words nor paragraphs, and no exit in them was measured.",
            hint="Collect with `[points] boundaries = true` in the recipe, and name the model with --model.",
        )
    proposal = CueSet(tuple(word for word in chosen if word != PARAGRAPH), PARAGRAPH in chosen)
    return CueWordReport(tuple(rows[:most]), proposal, basis, saved, risk, len(thoughts))


def _thought(text: str, meta: Any) -> str:
    """Return the thinking of an output: up to the first closing delimiter."""
    ends = [place for close in meta.think_close if (place := text.find(close)) >= 0]
    return text[: min(ends)] if ends else text


def _of_text(word: str, thoughts: Sequence[str], opened: int) -> Word:
    cues = CueSet(paragraph=True) if word == PARAGRAPH else CueSet((word,))
    places = [np.array(find_cues(thought, cues), float) / max(len(thought), 1) for thought in thoughts]
    events = sum(map(len, places))
    hit = [own for own in places if len(own)]
    return Word(
        word=word,
        sets=tuple(name for name, named in CUE_SETS.items() if word in named.words),
        per_trace=events / max(len(thoughts), 1),
        traces=len(hit) / max(len(thoughts), 1),
        opens=1.0 if word == PARAGRAPH else min(opened / events, 1.0) if events else math.nan,
        first_at=float(np.median([own[0] for own in hit])) if hit else math.nan,
        middle_at=float(np.median(np.concatenate(hit))) if hit else math.nan,
    )


def _measured(word: Word, exits: WordExits) -> Word:
    mine = exits.of([word.word])
    agrees = exits.agrees[mine]
    return replace(
        word,
        points=len(agrees),
        agree=float(agrees.mean()) if len(agrees) else math.nan,
        probe_auc=_area(agrees, exits.probe[mine]),
        statistics_auc=_area(agrees, exits.statistics[mine]),
    )


def _area(agrees: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    if min(int(agrees.sum()), int((~agrees).sum())) < _SIDE or not np.isfinite(scores).all():
        return math.nan
    return float(need("sklearn.metrics", "calibrate").roc_auc_score(agrees, scores))


def _greedy(words: Sequence[str], exits: WordExits, risk: float) -> tuple[list[str], float]:
    """Grow a set while a word adds enough."""
    chosen: list[str] = []
    best = 0.0
    if not len(exits.scores) or not np.isfinite(exits.scores).all():
        return chosen, best
    while rest := [word for word in words if word not in chosen]:
        worth = [saved_at(exits, [*chosen, word], risk) for word in rest]
        place = int(np.argmax(worth))
        if worth[place] < best + _EARNS:
            break
        chosen.append(rest[place])
        best = worth[place]
    return chosen, best


def saved_at(exits: WordExits, words: Iterable[str], risk: float) -> float:
    """Largest share of thinking tokens that first exits at these words save within the risk, out of fold."""
    mine = exits.of(words)
    if not mine.any():
        return 0.0
    found = exit_steps(exits.trace[mine], exits.scores[mine])
    quantiles = np.quantile(exits.scores[mine], np.linspace(0, 1, _GRID))
    thresholds = np.unique(quantiles.astype(np.float32))
    lost = sums_at(found, (~exits.agrees[mine][found.event]).astype(np.float64), thresholds)
    saved = sums_at(found, exits.saves[mine][found.event].astype(np.float64), thresholds)
    return float(saved[lost <= risk * exits.traces].max(initial=0.0)) / max(exits.tokens, 1)


def _by_name(rows: Sequence[Word]) -> list[str]:
    """Known cue words that occur in enough traces; else paragraphs, if most traces have some."""
    known = [row.word for row in rows if row.sets and row.traces >= _OFTEN]
    breaks = [row.word for row in rows if row.word == PARAGRAPH and row.traces >= 0.5]
    return known or breaks


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
