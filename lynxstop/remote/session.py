"""One request of a server as its stream shows it: when to cut the thinking, and where.

What a distribution says is known when its token arrives, so a session decides on a token when it reads the
next one. Nothing is held back for that but the text that an exit would take away: a cue that is under way.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, replace
from itertools import pairwise

from lynxstop.core.points import CUE
from lynxstop.core.policy import StopPolicy
from lynxstop.core.session import CueEvent, Exit, Mode, Phase, Session
from lynxstop.core.statistics import Statistics
from lynxstop.core.stream import CLOSE, OPEN, StreamWatch
from lynxstop.core.watch import WatchState
from lynxstop.remote.later import MOST, Later
from lynxstop.remote.tokens import CLOSED, NONE, OPENED, Seen, StreamToken, beginnings, behind


@dataclass(frozen=True, slots=True)
class Cut:
    """Where an exit cuts a stream.

    Parameters
    ----------
    index : int
        Texts that stay whole.
    kept : int
        Bytes of the next text that stay.
    thinking_tokens : int
        Thinking tokens among what stays; a text that is cut counts.
    """

    index: int
    kept: int
    thinking_tokens: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What is watched and what may stop a request; one per bundle.

    Parameters
    ----------
    watch : StreamWatch
    policy : StopPolicy
    exit_text : str
    close : tuple of str
        Texts that close a thinking block.
    before : bool
        Whether an exit at a cue cuts before the cue instead of behind it.
    exit_ids : tuple of int
        Tokens of the exit text in the server's vocabulary; empty where that is unknown.
    opened : bool
        Whether a block is open from the start, because the prompt's template opened it and the server does
        not say so.
    open : tuple of str
        Texts that open a thinking block.
    exit_tokens : int
        Number of the tokens of the exit text, where only that is known; 0 takes it from `exit_ids`.
    """

    watch: StreamWatch
    policy: StopPolicy
    exit_text: str
    close: tuple[str, ...] = ("</think>",)
    before: bool = False
    exit_ids: tuple[int, ...] = ()
    opened: bool = False
    open: tuple[str, ...] = ("<think>",)
    exit_tokens: int = 0
    closing: frozenset[bytes] = field(init=False)
    exits: frozenset[str] = field(init=False)
    _forgetful: StopPolicy = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "closing", frozenset(text.encode() for text in self.close))
        object.__setattr__(self, "exits", beginnings(self.exit_text))
        object.__setattr__(self, "_forgetful", self._with_rule(keep=False))
        object.__setattr__(self, "exit_tokens", self.exit_tokens or len(self.exit_ids))

    def policy_for(self, *, keep: bool) -> StopPolicy:
        """Return the policy as a stream asks it: its rule catches up with many tokens at a time.

        Parameters
        ----------
        keep : bool
            Whether tokens keep their log-probabilities once the rule has read them.
        """
        return self._with_rule(keep=True) if keep else self._forgetful

    def _with_rule(self, *, keep: bool) -> StopPolicy:
        rule = self.policy.rule
        return self.policy if rule is None else replace(self.policy, rule=Later(rule, self.exits, keep))


class StreamSession:
    """State of one request.

    Parameters
    ----------
    terms : Terms
    risk : float, optional
        The certified level to stop at; None thinks to the end.
    mode : Mode
        Stop, or only decide.
    group : str, optional
    keep : bool
        Whether tokens keep their log-probabilities once they have been decided on: for a thought of
        thousands of tokens, that is some megabytes.

    Attributes
    ----------
    session : Session
        The core's state; its token indices count what `read` and `mark` were given.
    tokens : list of StreamToken
        What was read; marks are tokens without text. Those that `skim` took are missing until `catch_up`.
    cut : Cut or None
        Set once an exit is decided.
    opened_by_field : bool
        Whether the last block was opened by text in the field of thinking, not by a delimiter.

    Raises
    ------
    ConfigError
        When `risk` is not certified.
    """

    __slots__ = (
        "_ahead", "_following", "_held", "_holds", "_judged", "_most", "_open", "_stops", "_waiting",
        "_watch", "cut", "opened_by_field", "session", "terms", "thinking", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        terms: Terms,
        *,
        risk: float | None,
        mode: Mode = Mode.STOP,
        group: str | None = None,
        keep: bool = False,
    ) -> None:
        self.terms = terms
        policy = terms.policy_for(keep=keep)
        self.session = Session(terms.watch, policy, (), risk=risk, mode=mode, group=group)
        self.tokens: list[StreamToken] = []
        self.thinking: list[bool] = []
        self.cut: Cut | None = None
        self._watch = terms.watch
        self._judged = True
        self._following: StreamToken | None = None
        self._ahead: WatchState | None = None
        self._waiting: list[tuple[bytes, int | None, bytes]] = []
        # Thinking tokens behind which nothing may wait: they may be decided on whatever they show.
        self._most = (policy.budget or sys.maxsize) - 2 if policy.points == CUE else 0
        self._held: int | None = None
        self._open = False
        self._stops = mode is Mode.STOP
        self._holds = terms.before and self._stops and risk is not None
        self.opened_by_field = False
        if terms.opened:
            self._take(OPENED, OPEN)

    @property
    def inside(self) -> bool:
        """Whether a thinking block is open."""
        return self.session.inside

    @property
    def held(self) -> int | None:
        """Index of the first token that an exit might still take away; None when all are settled."""
        return self._held

    def mark(self, opens: bool) -> Cut | None:
        """Take note that the server's text now goes to the field of thinking, or to that of the answer."""
        self.opened_by_field = opens or self.opened_by_field
        return self._take(OPENED, OPEN) if opens else self._take(CLOSED, CLOSE)

    def read(self, token: StreamToken) -> Cut | None:
        """Read the next token.

        Returns
        -------
        Cut or None
            Where to cut, when an exit is decided; `token` lies behind the cut, and was not read.

        Raises
        ------
        ConfigError
            When the server streams pieces of text that are no tokens.
        """
        return self._take(token, self._watch.vocabulary.number(token.text))

    def skim(self, text: bytes, id: int | None, entry: bytes) -> bool:
        """Take a thinking token that shows nothing, to be read later together with others.

        Parameters
        ----------
        text, id, entry
            See `lynxstop.remote.tokens.StreamToken`.

        Returns
        -------
        bool
            False when it has to be read now: it was not taken.

        Raises
        ------
        ConfigError
            As `read` does.
        """
        if self._ahead is None or self.session.thinking_tokens + len(self._waiting) >= self._most:
            return False
        key = self._ahead, text
        watch = self._watch
        ahead = watch.passing[key] if key in watch.passing else watch.passes(*key)
        if ahead is None:
            return False
        self._ahead = ahead
        self._waiting.append((text, id, entry))
        if len(self._waiting) >= MOST:
            self._read_waiting()
            self._ahead = ahead
        return True

    def catch_up(self) -> None:
        """Read what `skim` has taken.

        Raises
        ------
        ConfigError
            As `read` does.
        """
        if self._waiting:
            self._read_waiting()
        self._ahead = None

    def _read_waiting(self) -> None:
        waiting, state, self._waiting, self._ahead = self._waiting, self._ahead, [], None
        assert state is not None
        number = self._watch.vocabulary.number
        tokens = [StreamToken(text, math.nan, NONE, id, entry) for text, id, entry in waiting]
        known = list(map(Seen, (self.tokens[-1], *tokens[:-1]), tokens))
        self.tokens += tokens
        self.thinking += [True] * len(tokens)
        self.session.advance([number(text) for text, _, _ in waiting], known, state)

    def _take(self, token: StreamToken, number: int) -> Cut | None:
        self.catch_up()
        if self.cut is not None and self._stops:
            return self.cut
        if not self._judged and self._decide(token):
            return self.cut
        asked = self.session.read(number)
        self._judged = False
        self.tokens.append(token)
        self.thinking.append(self.session.was_thinking)
        if self._holds:
            self._hold(asked or (self.session.was_thinking and self._watch.open_cue(self.session.state.cue)))
        if self._most and self._held is None and self.session.idle:
            self._ahead = self.session.state
        return None

    def _hold(self, open_cue: bool) -> None:
        """Hold a cue under way, and up to the token behind it: what proves a cue is decided on one later."""
        if open_cue and self._held is None:
            self._held = len(self.tokens) - 1
        elif not open_cue and not self._open:
            self._held = None
        self._open = open_cue

    def _decide(self, following: StreamToken) -> bool:
        """Decide on the last token with what came behind it; True when the stream is to be cut."""
        self._judged = True
        self._following = following
        forced = self.session.decide(math.nan, Seen(self.tokens[-1], following))
        if self.cut is None and (taken := self.session.exit) is not None:
            self.cut = self.where(taken)
        return forced is not None

    def where(self, taken: Exit) -> Cut:
        """Find where an exit cuts."""
        if taken.cue >= 0:
            return self.cut_at(self.session.events[taken.cue])
        return Cut(taken.seen_at + 1, 0, taken.thinking_tokens)

    def cut_at(self, event: CueEvent) -> Cut:
        """Find where an exit at an event cuts: behind it, or before its cue."""
        index, kept = event.seen_at + 1, 0
        if self.terms.before and event.kind & CUE:
            index, kept = self._watch.cue_start([token.text for token in self.tokens], event.index)
        return Cut(index, kept, sum(self.thinking[: index + (kept > 0)]))

    @property
    def answered(self) -> int:
        """Tokens behind the last thinking block and its delimiter."""
        if self.session.phase is not Phase.ANSWERING:
            return 0
        last = len(self.thinking) - 1 - self.thinking[::-1].index(True) if True in self.thinking else -1
        return max(0, len(self.tokens) - last - 2)

    def drop(self, count: int) -> None:
        """Forget the last tokens of an answer that is longer than it may be."""
        if count > 0:
            self._following, self._judged = self.tokens[-count], True
            del self.tokens[-count:], self.thinking[-count:]

    def statistics(self) -> list[Statistics]:
        """Return what is known behind each token that was decided on: all but the last, at most.

        The session must have been made with `keep`.

        Raises
        ------
        ConfigError
            When the server's log-probabilities cannot be read.
        """
        tokens = self.tokens
        if self._judged and self._following is not None:
            tokens = [*tokens, self._following]
        return behind([Seen(*pair) for pair in pairwise(tokens)], self.terms.exits)

    def text(self, cut: Cut) -> bytes:
        """Return the text that stays."""
        whole = b"".join(token.text for token in self.tokens[: cut.index])
        return whole + self.tokens[cut.index].text[: cut.kept] if cut.kept else whole
