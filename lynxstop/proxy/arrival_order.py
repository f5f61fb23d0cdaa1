"""Give what became of requests on in the order in which they arrived.

A request that thinks for long is known late, and is lost more often. In the order in which they become known,
outcomes are therefore not exchangeable: those of a burst end with its losses, which sequential tests take for
a change; and those known so far lack the slow ones.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Outcome = TypeVar("Outcome")


@dataclass(slots=True, eq=False)
class Turn(Generic[Outcome]):
    """A request's place among those of its key."""

    since: float
    outcome: Outcome | None = None
    ended: bool = False
    waited_for: bool = True


class ArrivalOrder(Generic[Outcome]):
    """Holds outcomes back until those of all earlier requests of the same key are known.

    Parameters
    ----------
    seconds : float
        So long after its arrival a request is waited for; then its outcome counts when it comes, so that
        nobody who keeps a request open hides the others.
    clock : callable
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._turns: dict[Hashable, deque[Turn[Outcome]]] = {}
        self._late: list[Outcome] = []

    def enter(self, key: Hashable = None) -> Turn[Outcome]:
        """Give a request that arrives its place."""
        turn = Turn[Outcome](self._clock())
        self._turns.setdefault(key, deque()).append(turn)
        return turn

    def end(self, turn: Turn[Outcome], outcome: Outcome | None) -> None:
        """Note what became of a request; None when it does not count."""
        turn.ended, turn.outcome = True, outcome
        if not turn.waited_for and outcome is not None:
            self._late.append(outcome)

    def released(self, *, everything: bool = False) -> list[Outcome]:
        """Take out the outcomes whose turn has come, or all that are known."""
        found, self._late = self._late, []
        oldest = self._clock() - self._seconds
        for key, turns in list(self._turns.items()):
            while turns and (everything or turns[0].ended or turns[0].since <= oldest):
                turn = turns.popleft()
                turn.waited_for = False
                if turn.outcome is not None:
                    found.append(turn.outcome)
            if not turns:
                # Clients may choose what is in a key.
                del self._turns[key]
        return found
