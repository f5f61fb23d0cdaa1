"""What a server shows of one token, and what that says about the token before it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from lynxstop.core.judging import Statistics
from lynxstop.errors import ConfigError


class Top(NamedTuple):
    """The most likely tokens of a distribution: texts, and log-probabilities in nats, in the same order."""

    texts: Sequence[str] = ()
    values: Sequence[float] = ()


NONE = Top()


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
        self.text, self._logprob, self._top, self.id, self._entry = text, logprob, top, id, entry

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
        return self._top

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


class _Likely(msgspec.Struct, gc=False):
    token: str
    logprob: float


class _Entry(msgspec.Struct, gc=False):
    logprob: float | None = None
    top_logprobs: list[_Likely] = []


_ENTRIES = msgspec.json.Decoder(list[_Entry])


def parse(tokens: Iterable[StreamToken]) -> None:
    """Parse the entries of tokens that have been left as the server wrote them, all at once.

    Raises
    ------
    ConfigError
        When one of them is not what OpenAI's protocol says.
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
        top = entry.top_logprobs
        token._logprob = math.nan if entry.logprob is None else entry.logprob
        token._top = Top([one.token for one in top], [one.logprob for one in top])
        token._entry = None


OPENED, CLOSED = StreamToken(b"", id=0), StreamToken(b"", id=1)
"""Marks in a list of tokens: text went to the field of thinking, or away from it."""


def written(tokens: Iterable[StreamToken]) -> list[StreamToken]:
    """Return the tokens that are no marks."""
    return [token for token in tokens if token is not OPENED and token is not CLOSED]


def beginnings(text: str) -> frozenset[str]:
    """All texts that `text` begins with."""
    return frozenset(text[:end] for end in range(1, len(text) + 1))


class Seen(NamedTuple):
    """What statistics behind a token are made of: the token, and the one that followed it."""

    token: StreamToken
    following: StreamToken


def behind(seen: Sequence[Seen], exits: frozenset[str]) -> list[Statistics]:
    """Statistics behind tokens, from the most likely tokens where the next ones were drawn.

    The mass outside the top k counts as one token: the entropy is then a lower bound of the true one. The end
    of thinking is the most likely token that begins the exit text; when there is none among the top k, its
    log-probability is at most that of the k-th, and the margin returned is that lower bound. All numbers are
    rounded to float32: what is recorded, and replayed, is what was decided on. What is returned for a token
    does not depend on the others that are given.

    Parameters
    ----------
    seen : sequence of Seen
        Where the following token shows less than 2 likely ones, all but `logprob` are NaN.
    exits : frozenset of str
        The `beginnings` of the exit text.

    Raises
    ------
    ConfigError
        When an entry of theirs cannot be read.
    """
    parse([following for _, following in seen])
    parse([token for token, _ in seen])
    found = np.full((len(seen), 4), np.nan)
    found[:, 3] = [token.logprob for token, _ in seen]
    tops = [following.top for _, following in seen]
    for size in {len(values) for _, values in tops}:
        if size > 1:
            rows = [row for row, (_, values) in enumerate(tops) if len(values) == size]
            found[rows, :3] = _of_tops([tops[row] for row in rows], exits)
    return list(map(Statistics._make, found.astype(np.float32).tolist()))


def _of_tops(tops: Sequence[Top], exits: frozenset[str]) -> NDArray[np.float64]:
    """Entropy, gap and margin of distributions that show equally many tokens; shape (n, 3)."""
    values = np.array([values for _, values in tops], np.float64)
    shares = np.exp(values)
    rest = 1.0 - shares.sum(axis=1)
    rest[rest <= 0.0] = 1.0
    entropy = -(shares * values).sum(axis=1) - rest * np.log(rest)
    order = np.sort(values, axis=1)
    ends = order[:, 0].copy()
    for row, (texts, logprobs) in enumerate(tops):
        said = [value for text, value in zip(texts, logprobs, strict=True) if text in exits]
        if said:
            ends[row] = max(said)
    best = order[:, -1]
    return np.stack([np.maximum(entropy, 0.0), best - order[:, -2], best - ends], axis=1)
