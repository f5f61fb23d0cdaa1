"""The watch as one table: thinking block and cues advance together by one lookup per token.

The core keeps two automata and combines them in `lynxstop.core.session`; on a device every lookup is a
kernel, so their product is taken once. An entry of the table holds the next state and what the token shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.cues import CONFIRMED, HERE, PENDING
from lynxstop.core.watch import Watch

THINKING, WHOLE, SETTLED, CANDIDATE = 1, 2, 4, 8
"""Flags of an entry: the token is a thinking token; it completes a cue and proves it; it proves the cue of
the token before it; its score is wanted."""
SHIFT = 4
MASK = (1 << SHIFT) - 1
DEAD = 0
"""State of a row that is not watched: every token leads back to it and shows nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class ProductAutomaton:
    """The product of both automata.

    Parameters
    ----------
    classes : int32 array of shape (tokens + 1,)
        Column of each token; the last entry serves every id beyond the vocabulary.
    table : int32 array of shape (states, columns)
        ``next state << SHIFT | flags``; state `DEAD` is absorbing and silent.
    roots : int32 array of shape (thinking states, 2)
        State after a prompt, by its thinking state and whether it ends inside a word.
    within : bool array of shape (states,)
        Whether a thinking block is open in each state.
    origins : int32 array of shape (states, 2)
        What each state is in the watch: its thinking state and its cue state.
    watch : Watch
        What was fused.
    """

    classes: NDArray[np.int32]
    table: NDArray[np.int32]
    roots: NDArray[np.int32]
    within: NDArray[np.bool_]
    origins: NDArray[np.int32]
    watch: Watch

    def start(self, prompt_ids: Sequence[int]) -> int:
        """Return the state after a prompt."""
        thinking, cue = self.watch.start(prompt_ids)
        return int(self.roots[thinking, cue])


def product(watch: Watch) -> ProductAutomaton:
    """Take the product of a watch's automata, over the states that tokens can reach.

    Only the token right after a pending cue confirms it, so `SETTLED` is exactly when a session settles one.
    """
    thinking, cues = watch.thinking.automaton, watch.cues.automaton
    within = watch.thinking.within
    keys = thinking.classes.astype(np.int64) * cues.table.shape[1] + cues.classes
    pairs, classes = np.unique(keys, return_inverse=True)
    of_thinking, of_cues = np.divmod(pairs, cues.table.shape[1])
    next_thinking = thinking.table[:, of_thinking]
    next_cue, shown = cues.table[:, of_cues], cues.flags[:, of_cues]

    count = len(cues.table)
    numbers = np.full(len(thinking.table) * count, -1, dtype=np.int32)
    front = np.array([t * count + w for t in range(len(thinking.table)) for w in (0, 1)])
    numbers[front] = 1 + np.arange(len(front))
    known = 1 + len(front)
    roots = numbers[front].reshape(-1, 2)
    blocks = [np.full((1, len(pairs)), DEAD << SHIFT, dtype=np.int32)]
    inside, origins = [np.zeros(1, dtype=np.bool_)], [np.zeros((1, 2), dtype=np.int32)]
    while len(front):
        t, c = np.divmod(front, count)
        inside.append(within[t])
        origins.append(np.stack([t, c], axis=1).astype(np.int32))
        following = next_thinking[t]
        both = within[t][:, None] & within[following]
        whole = both & (shown[c] & HERE != 0)
        pending = both & (shown[c] & PENDING != 0)
        settled = both & (shown[c] & CONFIRMED != 0)
        cue = np.where(both, next_cue[c], watch.cues.settled[next_cue[c]])
        targets = following.astype(np.int64) * count + cue
        fresh = np.unique(targets)
        fresh = fresh[numbers[fresh] < 0]
        numbers[fresh] = known + np.arange(len(fresh))
        known += len(fresh)
        flags = both * THINKING | whole * WHOLE | settled * SETTLED | (whole | pending) * CANDIDATE
        blocks.append((numbers[targets] << SHIFT | flags).astype(np.int32))
        front = fresh
    table, within = np.concatenate(blocks), np.concatenate(inside)
    return ProductAutomaton(classes.astype(np.int32), table, roots, within, np.concatenate(origins), watch)
