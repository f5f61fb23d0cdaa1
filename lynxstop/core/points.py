"""Decision points: where in a stream of tokens an exit may be decided."""

from __future__ import annotations

from collections.abc import Sequence

from lynxstop.core.surface import INERT, Surfaces
from lynxstop.errors import ConfigError

CUE, BOUNDARY, INTERVAL = 1, 2, 4
"""Kinds, as bits: a cue; a token that ends a sentence, a clause or a line; every so many thinking tokens."""

ALL = CUE | BOUNDARY | INTERVAL

KINDS = {"cue": CUE, "boundary": BOUNDARY, "interval": INTERVAL, "all": ALL}
"""Kinds by name."""

_ENDS = tuple(end.encode() for end in ".?!;:,\n…。？！；：，、")
_BLANK = b" \t\r"


def points_named(names: str) -> int:
    """Return kinds from names joined by commas, such as ``cue,boundary``.

    Raises
    ------
    ConfigError
        When a name is none of `KINDS`.

    Examples
    --------
    >>> points_named("cue,boundary") == CUE | BOUNDARY
    True
    """
    kinds = 0
    for name in names.split(","):
        if name not in KINDS:
            raise ConfigError(f"There is no decision point {name!r}.", hint=f"There are: {', '.join(KINDS)}.")
        kinds |= KINDS[name]
    return kinds


def is_boundary(symbols: Sequence[int]) -> bool:
    """Say whether a token's text, blanks aside, ends with punctuation or a line break.

    A point or comma inside a number that is split over tokens counts too: what comes next is not known yet.
    Punctuation whose bytes are split over tokens is not seen.

    Examples
    --------
    >>> is_boundary(list(b" done. ")), is_boundary(list(b" done"))
    (True, False)
    """
    if not symbols or symbols[-1] >= INERT:
        return False
    return bytes(symbol for symbol in symbols if symbol < INERT).rstrip(_BLANK).endswith(_ENDS)


def boundary_tokens(surfaces: Surfaces) -> frozenset[int]:
    """Ids of the tokens that are boundaries."""
    return frozenset(token for token in range(len(surfaces)) if is_boundary(surfaces[token]))
