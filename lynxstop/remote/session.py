"""One request as the server's stream shows it: whether to stop the thinking, and where to truncate it.

A token's distribution is known when the next token arrives, so a session decides on a token when it reads the
next one. Only text that an exit would remove is held back: a cue that may still be going on.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from itertools import pairwise

from lynxstop.core.conditions import Conditions
from lynxstop.core.exits import CueEvent, Exit, Mode, Reason
from lynxstop.core.points import CUE
from lynxstop.core.session import Phase, Session
from lynxstop.core.statistics import Statistics
from lynxstop.core.stream import CLOSE, OPEN
from lynxstop.core.watch import WatchState
from lynxstop.remote.fast_path.batched_rule import BATCH
from lynxstop.remote.stream_config import StreamConfig
from lynxstop.remote.tokens import CLOSED, NONE, OPENED, StreamToken, statistics_of_top_k


@dataclass(frozen=True, slots=True)
class TruncationPoint:
    """Where an exit truncates a stream.

    Parameters
    ----------
    index : int
        Texts that stay whole.
    kept : int
        Bytes of the next text that stay.
    thinking_tokens : int
        Thinking tokens among what stays; a text that stays in part counts.
    """

    index: int
    kept: int
    thinking_tokens: int


class StreamSession:
    """State of one request.

    Parameters
    ----------
    config : StreamConfig
    risk : float, optional
        The certified level to stop at; None thinks to the end.
    mode : Mode
        Stop, or only decide.
    group : str, optional
    served : Conditions, optional
        As for `lynxstop.core.session.Session`.
    keep : bool
        Whether tokens keep their log-probabilities once they have been decided on: for a thought of
        thousands of tokens, that is some megabytes.

    Attributes
    ----------
    session : Session
        The core's state; its token indices count what `read` and `mark` were given. It may be some tokens
        late, between decision points.
    tokens : list of StreamToken
        What was read; marks are tokens without text.
    truncation : TruncationPoint or None
        Set once an exit is decided.
    opened_by_field : bool
        Whether the last block was opened by text in the field for thinking, not by a delimiter.
    deciding : float
        Seconds spent on decisions.

    Raises
    ------
    ConfigError
        When `risk` is not certified.
    """

    __slots__ = (
        "_ahead", "_following", "_held", "_holds", "_judged", "_most", "_open", "_passed", "_room", "_stops",
        "_watch", "config", "deciding", "opened_by_field", "session", "thinking", "tokens", "truncation",
    )  # fmt: skip

    def __init__(
        self,
        config: StreamConfig,
        *,
        risk: float | None,
        mode: Mode = Mode.STOP,
        group: str | None = None,
        served: Conditions | None = None,
        keep: bool = False,
    ) -> None:
        self.config = config
        policy = config.policy_for(keep=keep)
        self.session = Session(config.watch, policy, (), risk=risk, mode=mode, group=group, served=served)
        self.tokens: list[StreamToken] = []
        self.thinking: list[bool] = []
        self.truncation: TruncationPoint | None = None
        self._watch = config.watch
        self._judged = True
        self._following: StreamToken | None = None
        self._ahead: WatchState | None = None
        self._passed: list[WatchState] = []
        self._room = 0
        # After so many thinking tokens the budget may end at the next, whatever it shows.
        self._most = (policy.budget or sys.maxsize) - 2 if policy.points == CUE else 0
        self._held: int | None = None
        self._open = False
        self._stops = mode is Mode.STOP
        self._holds = config.before and self._stops and risk is not None
        self.deciding = 0.0
        self.opened_by_field = False
        if config.opened:
            self._take(OPENED, OPEN)

    @property
    def inside(self) -> bool:
        """Whether a thinking block is open."""
        return self.session.inside

    @property
    def thinking_tokens(self) -> int:
        """Thinking tokens of the answer: those before the truncation, if there is one."""
        return sum(self.thinking) if self.truncation is None else self.truncation.thinking_tokens

    @property
    def held(self) -> int | None:
        """Index of the first token that an exit might still remove; None when there is none."""
        return self._held

    def mark(self, opens: bool) -> TruncationPoint | None:
        """Note that the server switched to the field for thinking, or to that for the answer."""
        self.opened_by_field = opens or self.opened_by_field
        return self._take(OPENED, OPEN) if opens else self._take(CLOSED, CLOSE)

    def read(self, token: StreamToken) -> TruncationPoint | None:
        """Read the next token.

        Returns
        -------
        TruncationPoint or None
            Where to truncate, when an exit is decided; `token` comes after that point, and was not read.

        Raises
        ------
        ConfigError
            When the server streams pieces of text that are not tokens.
        """
        return self._take(token, self._watch.vocabulary.number(token.text))

    def enqueue(self, text: bytes, id: int | None, entry: bytes) -> bool:
        """Take a token that cannot be a decision point; it is read with the next batch, at the latest.

        Parameters
        ----------
        text, id, entry
            See `lynxstop.remote.tokens.StreamToken`.

        Returns
        -------
        bool
            False when it may be a decision point, or part of one: it was not read, and is to go to `read`.

        Raises
        ------
        ConfigError
            As `read` does, or when the log-probabilities of a batch cannot be read.
        """
        if self._ahead is None:
            return False
        key = self._ahead, text
        try:
            ahead = self._watch.passing[key]
        except KeyError:
            ahead = self._watch.passes(*key)
        if ahead is None:
            return False
        self.tokens.append(StreamToken(text, math.nan, NONE, id, entry))
        self.thinking.append(True)
        self._ahead = ahead
        self._passed.append(ahead)
        if len(self._passed) >= self._room:
            begun = time.perf_counter()
            self._advance()
            self.deciding += time.perf_counter() - begun
        return True

    def _advance(self) -> None:
        """Let the session read the tokens that wait."""
        states, self._passed = self._passed, []
        number, advance = self._watch.vocabulary.number, self.session.advance
        for pair, state in zip(pairwise(self.tokens[-len(states) - 1 :]), states, strict=True):
            advance(number(pair[1].text), pair, state)
        self._look_ahead()

    def _look_ahead(self) -> None:
        """See whether the next tokens may wait, and how many: none at which the budget may end."""
        self._room = min(BATCH, self._most - self.session.thinking_tokens)
        if self._room <= 0:
            self._ahead = None

    def _take(self, token: StreamToken, number: int) -> TruncationPoint | None:
        begun = time.perf_counter()
        try:
            return self._taken(token, number)
        finally:
            self.deciding += time.perf_counter() - begun

    def _taken(self, token: StreamToken, number: int) -> TruncationPoint | None:
        if self._passed:
            self._advance()
        self._ahead = None
        if self.truncation is not None and self._stops:
            return self.truncation
        if not self._judged and self._decide(token):
            return self.truncation
        asked = self.session.read(number)
        self._judged = False
        self.tokens.append(token)
        self.thinking.append(self.session.was_thinking)
        if self._holds:
            self._hold(asked or (self.session.was_thinking and self._watch.open_cue(self.session.state.cue)))
        if self._most and self._held is None and self.session.idle:
            self._ahead = self.session.state
            self._look_ahead()
        return None

    def _hold(self, open_cue: bool) -> None:
        """Hold back a cue in progress and the token after it: a cue is decided on one token late."""
        if open_cue and self._held is None:
            self._held = len(self.tokens) - 1
        elif not open_cue and not self._open:
            self._held = None
        self._open = open_cue

    def _decide(self, following: StreamToken) -> bool:
        """Decide on the last token, given the following one; True when the stream is to be truncated."""
        self._judged = True
        self._following = following
        forced = self.session.decide(math.nan, (self.tokens[-1], following))
        if self.truncation is None and (taken := self.session.exit) is not None:
            self.truncation = self.truncation_of(taken)
        return forced is not None

    def answer_now(self) -> TruncationPoint | None:
        """Truncate after the last token, as somebody asked; in shadow mode too.

        Returns
        -------
        TruncationPoint or None
            None where that is not possible yet, or any more: no thinking has been read, the last token ends
            in the middle of a character, or the stream is truncated already.
        """
        thinking = sum(self.thinking)
        taken = self.truncation is not None and self._stops
        if taken or not thinking or not self.session.inside:
            return None
        point = TruncationPoint(len(self.tokens), 0, thinking)
        try:
            self.text(point).decode()
        except UnicodeDecodeError:
            return None
        last = len(self.tokens) - 1
        self.session.exit = Exit(Reason.ASKED, -1, last, thinking, math.nan, math.nan)
        self.truncation = point
        return point

    def truncation_of(self, taken: Exit) -> TruncationPoint:
        """Return where an exit truncates."""
        if taken.cue >= 0:
            return self.truncation_at(self.session.events[taken.cue])
        return TruncationPoint(taken.seen_at + 1, 0, taken.thinking_tokens)

    def truncation_at(self, event: CueEvent) -> TruncationPoint:
        """Return where an exit at an event truncates: after it, or before its cue."""
        index, kept = event.seen_at + 1, 0
        if self.config.before and event.kind & CUE:
            index, kept = self._watch.cue_start([token.text for token in self.tokens], event.index)
        return TruncationPoint(index, kept, sum(self.thinking[: index + (kept > 0)]))

    @property
    def answered(self) -> int:
        """Number of tokens after the last thinking block and its delimiter."""
        if self.session.phase is not Phase.ANSWERING:
            return 0
        last = len(self.thinking) - 1 - self.thinking[::-1].index(True) if True in self.thinking else -1
        return max(0, len(self.tokens) - last - 2)

    def drop(self, count: int) -> None:
        """Drop the last tokens of an answer that exceeds its limit."""
        if count > 0:
            self._following, self._judged = self.tokens[-count], True
            del self.tokens[-count:], self.thinking[-count:]

    def statistics(self) -> list[Statistics]:
        """Return the statistics after each token that was decided on: all except the last, at most.

        The session must have been made with `keep`.

        Raises
        ------
        ConfigError
            When the server's log-probabilities cannot be read.
        """
        tokens = self.tokens
        if self._judged and self._following is not None:
            tokens = [*tokens, self._following]
        return statistics_of_top_k(list(pairwise(tokens)), self.config.exits)

    def text(self, truncation: TruncationPoint) -> bytes:
        """Return the text that stays."""
        whole = b"".join(token.text for token in self.tokens[: truncation.index])
        return whole + self.tokens[truncation.index].text[: truncation.kept] if truncation.kept else whole
