"""Tokens that decide nothing, read for all rows at once; their sessions catch up when something is due.

Most tokens complete no decision point. For these a session only counts, and passes the token on to its
signals. So the rows of a step advance together by the product of the automata, what a session has missed is
kept here, and it reads that, in order, before anything else happens to it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from lynxstop.core.points import BOUNDARY, INTERVAL
from lynxstop.core.policy import StopPolicy
from lynxstop.core.session import Phase, Session
from lynxstop.core.statistics import DTYPE, LOGPROB, UNKNOWN, WIDTH, Statistics
from lynxstop.core.watch import WatchState
from lynxstop.engines.vllm.product_automaton import DEAD, MASK, SHIFT, THINKING, ProductAutomaton

ROOM = 32
"""Steps after which a session catches up in any case; each slot in a step of its own."""
_ENDLESS = 2**62


class QuietTokens:
    """What the sessions in some slots have not read yet.

    Parameters
    ----------
    automaton : ProductAutomaton
        What is watched for.
    policy : StopPolicy
        Names the decision points.
    slots : int

    Attributes
    ----------
    seen : int64 array of shape (slots,)
        Thinking tokens so far.
    """

    def __init__(self, automaton: ProductAutomaton, policy: StopPolicy, slots: int) -> None:
        self._automaton = automaton
        self._table, self._columns = automaton.table.reshape(-1), automaton.table.shape[1]
        self._beyond = len(automaton.classes) - 1
        self._every = policy.every if policy.points & INTERVAL else 0
        self._excluded = np.zeros(len(automaton.classes), dtype=np.bool_)
        self._boundary: NDArray[np.bool_] | None = None
        if policy.points & BOUNDARY:
            self._boundary = np.zeros(len(automaton.classes), dtype=np.bool_)
            self._boundary[list(automaton.watch.boundaries)] = True
        self.seen = np.zeros(slots, dtype=np.int64)
        self._state = np.full(slots, DEAD, dtype=np.int32)
        self._missed = np.full(slots, DEAD, dtype=np.int32)  # state after the last token that is kept
        self._budget = np.zeros(slots, dtype=np.int64)
        self._free = np.zeros(slots, dtype=np.bool_)
        self._thinks = np.zeros(slots, dtype=np.bool_)
        self._count = np.zeros(slots, dtype=np.int64)
        self._tokens = np.zeros((slots, ROOM), dtype=np.int32)
        self._statistics = np.full((slots, ROOM, WIDTH), np.nan, dtype=DTYPE)
        self._turn = 0

    def exclude(self, tokens: Iterable[int]) -> None:
        """Never take these tokens as quiet: they end the texts of some requests."""
        self._excluded[[min(token, self._beyond) for token in tokens]] = True

    def enter(self, slot: int, state: int) -> None:
        """Give a slot, at a state of the automaton, to a session that has read all its tokens."""
        self._count[slot], self.seen[slot], self._state[slot] = 0, 0, state

    def leave(self, slot: int, session: Session | None) -> int:
        """Let a session catch up before it leaves its slot; return its state of the automaton."""
        if session is not None:
            self.catch_up(slot, session)
        return int(self._state[slot])

    def follow(self, slot: int, session: Session | None) -> None:
        """Say how a session stands after it has read and decided; None when its slot is not watched."""
        self._free[slot] = self._thinks[slot] = False
        if session is None:
            return
        self.seen[slot] = session.thinking_tokens
        budget = session.policy.budget
        self._budget[slot] = _ENDLESS if budget is None or session.exit is not None else min(budget, _ENDLESS)
        thinks = session.phase is Phase.THINKING
        self._thinks[slot] = thinks
        # A pending cue makes no difference: only the next token can confirm it, and then that is not quiet.
        outside = session.phase in (Phase.WAITING, Phase.ANSWERING)
        self._free[slot] = outside or (thinks and session.policy.loop_guard is None)

    def read(
        self,
        slots: NDArray[np.int64],
        reads: NDArray[np.bool_],
        tokens: NDArray[np.int32],
        statistics: NDArray[np.float32],
        looked: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Read a step, and keep the tokens of rows that decide nothing.

        Parameters
        ----------
        slots : int64 array of shape (rows,)
        reads : bool array of shape (rows,)
            Rows whose token is new.
        tokens : int32 array of shape (rows,)
        statistics : float32 array of shape (rows, WIDTH)
            Of these tokens; NaN in rows that are not `looked` at.

        Returns
        -------
        bool array of shape (rows,)
            Rows that are done. The sessions of the others catch up and read the token themselves.
        """
        known, before = np.minimum(tokens, self._beyond), self._state[slots]
        entry = self._table[before * self._columns + self._automaton.classes[known]]
        after, flags = entry >> SHIFT, entry & MASK
        self._state[slots] = np.where(reads, after, before)
        thinks, seen = self._thinks[slots], self.seen[slots] + 1
        quiet: NDArray[np.bool_] = (flags == THINKING) & (seen < self._budget[slots])
        if self._every:
            quiet &= seen % self._every != 0
        if self._boundary is not None:
            quiet &= ~self._boundary[known]
        quiet &= ~(looked & np.isnan(statistics[:, LOGPROB]))
        quiet = np.where(thinks, quiet, ~self._automaton.within[after]) & self._free[slots] & reads
        quiet &= ~self._excluded[known]
        rows = np.flatnonzero(quiet)
        where = slots[rows]
        at = self._count[where]
        self._tokens[where, at], self._statistics[where, at] = tokens[rows], statistics[rows]
        self._count[where], self._missed[where] = at + 1, after[rows]
        self.seen[where] += thinks[rows]
        return quiet

    def due(self, slots: NDArray[np.int64]) -> list[int]:
        """Slots whose sessions catch up in this step, so that what is kept stays short."""
        self._turn += 1
        due: list[int] = slots[((slots + self._turn) % ROOM == 0) | (self._count[slots] == ROOM)].tolist()
        return due

    def catch_up(self, slot: int, session: Session) -> None:
        """Let a session read what it has missed, up to the last step."""
        count = int(self._count[slot])
        if not count:
            return
        self._count[slot] = 0
        tokens: list[int] = self._tokens[slot, :count].tolist()
        statistics = [UNKNOWN] * count
        if session.phase is Phase.THINKING and session.policy.rule is not None:
            statistics = list(map(Statistics._make, self._statistics[slot, :count].tolist()))
        origin = self._automaton.origins[self._missed[slot]].tolist()
        session.pass_over(tokens, statistics, WatchState(*origin))
