"""Give the outcomes of audits on in the order in which their requests arrived.

A request that thinks for long is known late, and is lost more often. In the order in which they become known,
outcomes are therefore not exchangeable: those of a burst end with its losses, which sequential tests take for
a change.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from lynxstop.monitor.entries import Audit
from lynxstop.monitor.monitor import LevelKey


@dataclass(slots=True, eq=False)
class Turn:
    """A request's place among the audited ones of its level."""

    key: LevelKey
    since: float
    outcome: Audit | None = None
    ended: bool = False
    waited_for: bool = True


class ArrivalOrder:
    """Holds outcomes back until those of all earlier requests of the level are known.

    Parameters
    ----------
    seconds : float
        So long after its arrival a request is waited for; then its outcome counts when it comes, so that
        nobody who keeps a request open hides the others.
    clock : callable
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._turns: dict[LevelKey, deque[Turn]] = {}
        self._late: list[Audit] = []

    def enter(self, key: LevelKey) -> Turn:
        """Give a request that arrives its place."""
        turn = Turn(key, self._clock())
        self._turns.setdefault(key, deque()).append(turn)
        return turn

    def end(self, turn: Turn, outcome: Audit | None) -> None:
        """Note what became of a request; None when it does not count."""
        turn.ended, turn.outcome = True, outcome
        if not turn.waited_for and outcome is not None:
            self._late.append(outcome)

    def released(self, *, everything: bool = False) -> list[Audit]:
        """Take out the outcomes whose turn has come, or all that are known."""
        found, self._late = self._late, []
        oldest = self._clock() - self._seconds
        for turns in self._turns.values():
            while turns and (everything or turns[0].ended or turns[0].since <= oldest):
                turn = turns.popleft()
                turn.waited_for = False
                if turn.outcome is not None:
                    found.append(turn.outcome)
        return found
