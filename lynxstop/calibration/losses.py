"""What can go wrong with an early exit, as data: a new loss is one row of `LOSSES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lynxstop.errors import ConfigError

Floats = NDArray[np.float64]

UNKNOWN_LOSS = 1.0
"""Charged for an exit answer that could not be judged, unless the user says otherwise."""


class Verdicts(NamedTuple):
    """What grading found at exits: 1 true, 0 false, NaN unknown; all of shape (exits,)."""

    agrees: Floats
    """The answer of the exit equals that of the full trace."""
    right: Floats
    """The answer of the exit is right."""
    full_right: Floats
    """The answer of the full trace is right."""


@dataclass(frozen=True)
class Loss:
    """A loss of a request; 0 without an exit.

    Parameters
    ----------
    name : str
    phrase : str
        What happens to a request that suffers it, as the predicate of "requests".
    at_exit : callable
        From `Verdicts` to the loss of each exit, in [0, 1], NaN where it is unknown.
    selective : bool
        Whether the risk is among the requests that exit.
    """

    name: str
    phrase: str
    at_exit: Callable[[Verdicts], Floats]
    selective: bool = False


def _not(value: Floats) -> Floats:
    return 1.0 - value


def _both(left: Floats, right: Floats) -> Floats:
    """Product, which is 0 as soon as one factor is, whatever the other."""
    return np.where((left == 0) | (right == 0), 0.0, left * right)


LOSSES = {
    loss.name: loss
    for loss in (
        Loss(
            "disagree",
            "get an answer different from the one full thinking would have given",
            lambda exits: _not(exits.agrees),
        ),
        Loss(
            "harm",
            "get a wrong answer where full thinking would have given the right one",
            lambda exits: _both(_not(exits.right), exits.full_right),
        ),
        Loss("wrong", "are stopped early with a wrong answer", lambda exits: _not(exits.right)),
        Loss("wrong|exit", "have a wrong answer", lambda exits: _not(exits.right), selective=True),
    )
}
"""The losses that recorded data carry; `disagree` needs no reference answers."""


def charge(losses: Floats, unknown_loss: float = UNKNOWN_LOSS) -> Floats:
    """Put the user's value in place of unknown losses: the one place that decides what they cost."""
    return np.where(np.isnan(losses), unknown_loss, losses)


def loss_names(*, selective: bool = True) -> list[str]:
    """Names of the losses; without `selective`, only of those that count every request."""
    return [loss.name for loss in LOSSES.values() if selective or not loss.selective]


def recorded_loss(name: str, *, selective: bool = True) -> Loss:
    """Return a loss that can be computed from a recorded data set.

    Raises
    ------
    ConfigError
        When there is no such loss, or it is selective and those are not wanted; the message lists them.
    """
    known = loss_names(selective=selective)
    if name not in known:
        raise ConfigError(f"There is no loss {name!r} here.", hint=f"Choose one of: {', '.join(known)}.")
    return LOSSES[name]


def table_loss(name: str) -> Loss:
    """Return a loss by name; any other name is the loss of a user's own table, which holds its values."""
    return LOSSES.get(name, Loss(name, f"suffer the loss {name!r}", _only_in_tables))


def _only_in_tables(exits: Verdicts) -> Floats:
    return np.full(len(exits.agrees), np.nan)
