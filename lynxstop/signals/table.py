"""All signals by name; a new one is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from importlib.metadata import entry_points

from lynxstop.core.statistics import DEFINITIONS
from lynxstop.errors import ConfigError
from lynxstop.signals.base import Signal
from lynxstop.signals.latest import Latest
from lynxstop.signals.logprobs import SinceCue
from lynxstop.signals.novelty import Redundancy
from lynxstop.signals.position import Position
from lynxstop.signals.repetition import Loop
from lynxstop.signals.rpdi import PathDeviation
from lynxstop.signals.runs import SureRun
from lynxstop.signals.transitions import TransitionRate

GROUP = "lynxstop.signals"
"""Entry-point group of other packages' signals: a name, and a callable that makes a fresh `Signal`."""

SIGNALS: Mapping[str, Callable[..., Signal]] = {
    **{name: partial(Latest, name) for name in DEFINITIONS},
    "min_logprob": lambda: SinceCue(lowest=True),
    "mean_logprob": lambda: SinceCue(lowest=False),
    "rpdi": PathDeviation,
    "transitions": TransitionRate,
    "redundancy": Redundancy,
    "loop": Loop,
    "tokens": lambda: Position("tokens"),
    "step": lambda: Position("step"),
    "cues": lambda: Position("cues"),
    "sure_run": SureRun,
}
"""Makers of fresh signals. A key `name:a:b` passes the numbers a and b, as in `rpdi:32`."""


@cache
def _others() -> dict[str, Callable[..., Signal]]:
    return {entry.name: entry.load() for entry in entry_points(group=GROUP)}


def signal(key: str) -> Signal:
    """Make a fresh signal, such as `entropy` or `rpdi:32`.

    Raises
    ------
    ConfigError
        When there is no signal of this name, or it does not take these numbers.
    """
    maker, numbers = _made_by(key)
    try:
        return maker(*numbers)
    except (TypeError, ValueError) as error:
        raise _not_taken(key) from error


@lru_cache(maxsize=1024)
def _made_by(key: str) -> tuple[Callable[..., Signal], tuple[float, ...]]:
    """Return the maker that a key names, and its numbers; requests ask for the same ones again and again."""
    name, *numbers = key.split(":")
    maker = SIGNALS.get(name) or _others().get(name)
    if maker is None:
        raise ConfigError(
            f"There is no signal {name!r}.", hint=f"There are: {', '.join((*SIGNALS, *_others()))}."
        )
    try:
        return maker, tuple(float(n) if "." in n else int(n) for n in numbers)
    except ValueError as error:
        raise _not_taken(key) from error


def _not_taken(key: str) -> ConfigError:
    name, *numbers = key.split(":")
    return ConfigError(f"The signal {name!r} does not take {numbers}.")
