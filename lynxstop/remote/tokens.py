"""What a server shows of one token, and the statistics after the token before it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from lynxstop.core.statistics import DEFINITIONS, DTYPE, LOGPROB, WIDTH, NextToken, Statistics
from lynxstop.errors import ConfigError


class Top(NamedTuple):
    """The most likely tokens of a distribution: texts, and log-probabilities in nats, in the same order."""

    texts: Sequence[str] = ()
    values: Sequence[float] = ()


NONE = Top()


class _Likely(msgspec.Struct, gc=False):
    token: str
    logprob: float


class _Entry(msgspec.Struct, gc=False):
    logprob: float | None = None
    top_logprobs: list[_Likely] = []


class StreamToken:
    """One token as a server streams it.

    Parameters
    ----------
    text : bytes
    logprob : float
        Log-probability of the token itself, in nats; NaN where it is not given.
    top : Top
        Of the distribution it was drawn from.
    id : int, optional
        In the server's vocabulary, if it tells.
    entry : bytes, optional
        The token's entry in a list of log-probabilities as the server wrote it, in place of `logprob` and
        `top`: it is parsed when one of them is asked for, or together with others by `parse`.
    """

    __slots__ = ("_entry", "_logprob", "_top", "id", "text")

    def __init__(
        self,
        text: bytes,
        logprob: float = math.nan,
        top: Top = NONE,
        id: int | None = None,
        entry: bytes | None = None,
    ) -> None:
        self.text, self._logprob, self.id, self._entry = text, logprob, id, entry
        self._top: Top | list[_Likely] = top

    @property
    def logprob(self) -> float:
        """Log-probability of the token itself, in nats."""
        if self._entry is not None:
            parse((self,))
        return self._logprob

    @property
    def top(self) -> Top:
        """The most likely tokens of the distribution it was drawn from."""
        if self._entry is not None:
            parse((self,))
        if not isinstance(self._top, Top):
            self._top = Top([one.token for one in self._top], [one.logprob for one in self._top])
        return self._top

    def _likely(self) -> Sequence[_Likely]:
        top = self._top
        return [_Likely(*pair) for pair in zip(*top, strict=True)] if isinstance(top, Top) else top

    def forget(self) -> None:
        """Forget the log-probabilities."""
        self._logprob, self._top, self._entry = math.nan, NONE, None

    def __repr__(self) -> str:
        return f"StreamToken({self.text!r}, {self.logprob!r}, {self.top!r}, {self.id!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StreamToken):
            return NotImplemented
        return self._shown() == other._shown()

    def __hash__(self) -> int:
        return hash((self.text, self.id))

    def _shown(self) -> tuple[Any, ...]:
        known = None if math.isnan(self.logprob) else self.logprob
        return self.text, known, tuple(map(tuple, self.top)), self.id


_ENTRIES = msgspec.json.Decoder(list[_Entry])


def parse(tokens: Iterable[StreamToken]) -> None:
    """Parse the entries of tokens that have been left as the server wrote them, all at once.

    Raises
    ------
    ConfigError
        When one of them does not follow OpenAI's protocol.
    """
    waiting = [token for token in tokens if token._entry is not None]
    if not waiting:
        return
    try:
        found = _ENTRIES.decode(b"[%b]" % b",".join([token._entry or b"" for token in waiting]))
    except msgspec.MsgspecError:
        found = []
    if len(found) != len(waiting):
        raise ConfigError(
            "The server's log-probabilities cannot be read.",
            hint="See what it offers with `lynxstop doctor`.",
        )
    for token, entry in zip(waiting, found, strict=True):
        token._logprob = math.nan if entry.logprob is None else entry.logprob
        token._top = entry.top_logprobs
        token._entry = None


OPENED, CLOSED = StreamToken(b"", id=0), StreamToken(b"", id=1)
"""Marks in a list of tokens: the server switched to the field for thinking, or away from it."""


def written(tokens: Iterable[StreamToken]) -> list[StreamToken]:
    """Return the tokens without the marks."""
    return [token for token in tokens if token is not OPENED and token is not CLOSED]


def beginnings(text: str) -> frozenset[str]:
    """All texts that `text` begins with."""
    return frozenset(text[:end] for end in range(1, len(text) + 1))


TokenPair = tuple[StreamToken, StreamToken]
"""A token and the one after it, whose top-k distribution gives the statistics."""


def statistics_of_top_k(pairs: Sequence[TokenPair], exits: frozenset[str]) -> list[Statistics]:
    """Entropy, top gap and end margin of each next-token distribution, from its top-k log-probabilities.

    The mass outside the top k counts as one token: the entropy is then a lower bound of the true one. The end
    of thinking is the most likely token that begins the exit text; when there is none among the top k, its
    log-probability is at most that of the k-th, and the margin returned is that lower bound. All numbers are
    rounded to float32: what is recorded, and replayed, is what was decided on. What is returned for a token
    does not depend on the others that are given.

    Parameters
    ----------
    pairs : sequence of TokenPair
        Where the following token shows less than 2 likely ones, all but `logprob` are NaN.
    exits : frozenset of str
        The `beginnings` of the exit text.

    Raises
    ------
    ConfigError
        When log-probabilities cannot be read.
    """
    following = [one for _, one in pairs]
    parse(following)
    tokens = [token for token, _ in pairs]
    parse(tokens)
    tops = [token._likely() for token in following]
    found = np.full((len(pairs), WIDTH), np.nan)
    found[:, LOGPROB] = [token._logprob for token in tokens]
    sizes = [len(top) for top in tops]
    if len(set(sizes)) == 1:
        _read_tops(tops, exits, found)
    else:
        for row, top in enumerate(tops):
            _read_tops([top], exits, found[row : row + 1])
    return list(map(Statistics._make, found.astype(DTYPE).tolist()))


def _read_tops(tops: Sequence[Sequence[_Likely]], exits: frozenset[str], found: NDArray[np.float64]) -> None:
    """Write the statistics of next-token distributions that show equally many tokens into their columns."""
    size = len(tops[0])
    if size < 2:
        return
    logprobs = np.array([one.logprob for top in tops for one in top]).reshape(-1, size)
    shares = np.exp(logprobs)
    rest = 1.0 - shares.sum(axis=1)
    rest[rest <= 0.0] = 1.0
    shares *= logprobs
    entropy = -shares.sum(axis=1) - rest * np.log(rest)
    logprobs.sort(axis=1)
    best, second, ends = logprobs[:, -1], logprobs[:, -2], logprobs[:, 0].copy()
    for row, top in enumerate(tops):
        said = [one.logprob for one in top if one.token in exits]
        if said:
            ends[row] = max(said)
    known = NextToken(np.maximum(entropy, 0.0), best, second, ends)
    for column, define in enumerate(DEFINITIONS.values()):
        found[:, column] = define(known)
