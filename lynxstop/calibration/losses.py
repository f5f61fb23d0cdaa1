"""What can go wrong with an early exit, as data."""

from __future__ import annotations

from dataclasses import dataclass

from lynxstop.errors import ConfigError


@dataclass(frozen=True)
class Loss:
    """A loss of a request; 0 without an exit.

    Parameters
    ----------
    name : str
    phrase : str
        What happens to a request that suffers it, as the predicate of "requests".
    selective : bool
        Whether the risk is among the requests that exit.
    """

    name: str
    phrase: str
    selective: bool = False


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("disagree", "get an answer different from the one full thinking would have given"),
        Loss("harm", "get a wrong answer where full thinking would have given the right one"),
        Loss("wrong", "are stopped early with a wrong answer"),
        Loss("wrong|exit", "have a wrong answer", selective=True),
    )
}
"""The losses that recorded data carry; `disagree` needs no reference answers."""


def recorded_loss(name: str) -> Loss:
    """Return a loss that can be read off a recorded data set.

    Raises
    ------
    ConfigError
        When there is no such loss; the message lists them.
    """
    if name not in LOSSES:
        raise ConfigError(f"There is no loss {name!r}.", hint=f"Choose one of: {', '.join(LOSSES)}.")
    return LOSSES[name]


def table_loss(name: str) -> Loss:
    """Return a loss by name; any other name is the loss of a user's own table."""
    return LOSSES.get(name, Loss(name, f"suffer the loss {name!r}"))
