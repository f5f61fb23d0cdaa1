"""Detection of thinking that repeats itself, token by token."""

from __future__ import annotations

from lynxstop.errors import ConfigError

LONGEST = 256
"""Longest period that is detected, in tokens."""
LEAST = 64
"""Shortest repetition that is detected, in tokens: shorter ones are separators, digits and rows of tables."""


class LoopGuard:
    """Detects that a stream of tokens ends in `repeats` or more copies of one passage.

    It fires at a token iff for some period p of at most `longest` tokens the last
    n = max(`repeats` * p, `least`) tokens have period p, that is t[i] = t[i - p] within them. It is exact: it
    fires at the very token that completes the repetition, and never without one.

    After a mismatch t[i] != t[i - p], period p cannot fire before token i + n - p, and is not looked at until
    then: a check compares backwards up to the last mismatch and waits again. Until the guard fires, a period
    costs at most one comparison per token on average, and on text that does not repeat all periods together
    cost about log(`longest`) / (`repeats` - 1) checks per token. Nothing is allocated after construction.

    Parameters
    ----------
    repeats : int
        Copies in a row, 2 or more.
    longest : int
        Longest period, in tokens.
    least : int
        Shortest repetition, in tokens.

    Raises
    ------
    ConfigError
        When a number is too small.
    """

    __slots__ = ("_count", "_due", "_following", "_mask", "_need", "_recent")

    def __init__(self, repeats: int, *, longest: int = LONGEST, least: int = LEAST) -> None:
        if repeats < 2 or longest < 1 or least < 0:
            raise ConfigError(
                "A loop guard needs 2 repeats or more, and a longest period of 1 token or more."
            )
        # Matches in a row of a token with the one p places before it that make a loop, for each period p.
        self._need = [0, *(max((repeats - 1) * p, least - p) for p in range(1, longest + 1))]
        self._mask = (1 << (max(repeats * longest, least) + 1).bit_length()) - 1
        self.reset()

    def reset(self) -> None:
        """Forget the stream so far."""
        self._count = 0
        self._recent = [-1] * (self._mask + 1)
        # Periods by the token at which they may fire next: heads of linked lists, and the links.
        self._due = [0] * (self._mask + 1)
        self._following = [0] * len(self._need)
        for period in range(1, len(self._need)):
            self._wait(period, period - 1 + self._need[period])

    def read(self, token: int) -> bool:
        """Read the next token, an id of 0 or more; True when the stream now ends in a loop."""
        recent, mask, here = self._recent, self._mask, self._count
        recent[here & mask] = token
        self._count = here + 1
        period = self._due[here & mask]
        if not period:
            return False
        self._due[here & mask] = 0
        fired = False
        while period:
            following, need, run = self._following[period], self._need[period], 0
            while run < need and recent[(here - run) & mask] == recent[(here - run - period) & mask]:
                run += 1
            fired |= run == need
            self._wait(period, here + (need - run or 1))
            period = following
        return fired

    def _wait(self, period: int, until: int) -> None:
        """Look at a period again at token `until`."""
        self._following[period] = self._due[until & self._mask]
        self._due[until & self._mask] = period
