"""The life of one request: thinking, forcing, answering, done.

Every engine drives it the same way, in this order::

    if session.read(token):          # read the step
        score = probe(hidden_state)  # score it
    forced = session.decide(score)   # compare, decide, record; a token id to force next, or None

The session holds no tensors, no clock and does no I/O.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lynxstop.core.conditions import Conditions
from lynxstop.core.exits import CueEvent, Exit, Mode, Reason
from lynxstop.core.loops import LoopGuard
from lynxstop.core.points import BOUNDARY, CUE, INTERVAL
from lynxstop.core.policy import StopPolicy
from lynxstop.core.rule import Eligibility, passes, tilted
from lynxstop.core.statistics import UNKNOWN
from lynxstop.core.watch import Reader, WatchState, WatchStep


class Phase(enum.Enum):
    """Phase of a request."""

    WAITING = "waiting"
    """No thinking block is open yet."""
    THINKING = "thinking"
    FORCING = "forcing"
    """Exit tokens are being forced."""
    ANSWERING = "answering"
    DONE = "done"


# Looking up a member of an enumeration costs as much as the rest of a step.
_THINKING, _FORCING, _ANSWERING, _DONE = Phase.THINKING, Phase.FORCING, Phase.ANSWERING, Phase.DONE


class _Candidate(NamedTuple):
    token: int
    position: int
    score: float
    seen: Any
    """Snapshot of the policy's rule at the token."""


class Session:
    """State of one request; see the module for the loop that drives it.

    Parameters
    ----------
    watch : Reader
        Cue and thinking automata compiled for the tokenizer.
    policy : StopPolicy
        Guards, levels and exit tokens.
    prompt_ids : iterable of int
        The prompt; a thinking block opened in it counts, cues in it do not.
    risk : float, optional
        The certified level to stop at; None thinks to the end (a budget still holds).
    mode : Mode
        Stop, or only record what would have happened.
    group : str, optional
        The group whose level holds, if it has one of its own.
    served : Conditions, optional
        How the request is sampled, where levels were certified at several samplings.

    Attributes
    ----------
    phase : Phase
    events : list of CueEvent
        Cues seen so far, in order.
    exit : Exit or None
        The stop that was taken, or in shadow mode the one that would have been.
    tokens, thinking_tokens : int
        Generated tokens read so far, and how many of them lie inside thinking blocks.

    Raises
    ------
    ConfigError
        When `risk` is not certified.
    """

    __slots__ = (
        "_candidate",
        "_confirmed",
        "_forced",
        "_guards",
        "_here",
        "_loop",
        "_looping",
        "_marks",
        "_pending",
        "_points",
        "_scorer",
        "_state",
        "_thought",
        "_threshold",
        "_token",
        "_unsettled",
        "events",
        "exit",
        "mode",
        "phase",
        "policy",
        "thinking_tokens",
        "tokens",
        "watch",
    )  # fmt: skip

    def __init__(
        self,
        watch: Reader,
        policy: StopPolicy,
        prompt_ids: Iterable[int],
        *,
        risk: float | None = None,
        mode: Mode = Mode.STOP,
        group: str | None = None,
        served: Conditions | None = None,
    ) -> None:
        self.watch = watch
        self.policy = policy
        self.mode = mode
        self.events: list[CueEvent] = []
        self.exit: Exit | None = None
        self.tokens = 0
        self.thinking_tokens = 0
        self._threshold = policy.level(risk, group, served).threshold
        self._state = watch.start(prompt_ids)
        self.phase = Phase.THINKING if watch.inside(self._state) else Phase.WAITING
        self._forced: int | None = None
        self._guards = Eligibility(policy)
        self._pending: _Candidate | None = None
        self._confirmed = False
        self._here = False
        self._candidate = False
        self._unsettled = False
        self._points = policy.points
        self._marks = 0
        self._scorer = None if policy.rule is None else policy.rule.start()
        self._thought = False
        self._token = -1
        self._loop = None if policy.loop_guard is None else LoopGuard(policy.loop_guard)
        self._looping = False

    @property
    def was_thinking(self) -> bool:
        """Whether the last token was a thinking token."""
        return self._thought

    @property
    def inside(self) -> bool:
        """Whether a thinking block is open."""
        return self.watch.inside(self._state)

    @property
    def idle(self) -> bool:
        """Whether the last token was thinking, no decision point, and no earlier cue is unconfirmed.

        Never with a loop guard, which may decide at any token.
        """
        if self._loop is not None:
            return False
        showed = self._candidate or self._confirmed or self._unsettled or self._pending is not None
        return self._thought and not showed

    @property
    def state(self) -> WatchState:
        """State of the watch after the last token."""
        return self._state

    @property
    def stopped(self) -> bool:
        """Whether an exit has been forced, or is being forced."""
        return self._forced is not None

    @property
    def forced_token(self) -> int | None:
        """The token to force next, or None when the model continues freely."""
        if self.phase is not _FORCING:
            return None
        assert self._forced is not None
        return self.policy.exit_ids[self._forced]

    def read(self, token: int) -> bool:
        """Read one generated token; True when `decide` needs the score at this token."""
        seen = self.watch.read(self._state, token)
        self._state = seen.state
        self.tokens += 1
        self._confirmed = self._here = self._candidate = self._thought = False
        phase = self.phase
        if phase is _DONE:
            return False
        if phase is _FORCING:
            self._advance_forcing(token, seen.thinking)
            return False
        if not seen.thinking:
            if phase is _THINKING:
                self.phase = _ANSWERING
            self._pending = None
            return False
        if phase is not _THINKING:
            self.phase = _THINKING
            if self._loop is not None:
                self._loop.reset()
            return False
        self.thinking_tokens += 1
        self._thought = True
        if self._forced is not None:
            return False
        self._token = token
        if self._loop is not None and self.exit is None:
            self._looping = self._loop.read(token)
        if self._points == CUE:
            self._confirmed, self._here, self._unsettled = seen.confirmed, seen.here, seen.pending
            self._candidate = seen.here or seen.pending
        else:
            self._mark(seen, token)
        return self._candidate

    def decide(self, score: float | None = None, statistics: Any = UNKNOWN) -> int | None:
        """Decide at the last token, and record decision points and the exit.

        Parameters
        ----------
        score : float, optional
            Logit at the last token, when `read` returned True.
        statistics : Statistics
            Of the last token; needed at every token when `policy.rule.statistics` is True. The session
            only passes it to the rule.

        Returns
        -------
        int or None
            The token to force next, or None when the model continues freely.
        """
        if self._forced is None and self.phase is _THINKING:
            if self._scorer is not None and self._thought:
                self._scorer.step(self._token, statistics)
            if self._candidate or self._pending is not None:
                self._observe(score)
            if self._looping and self.exit is None:
                self._limit(Reason.LOOP)
            budget = self.policy.budget
            if budget is not None and self.thinking_tokens >= budget and not self.stopped:
                self._limit(Reason.BUDGET)
        return self.forced_token

    def advance(self, token: int, statistics: Any, state: WatchState) -> None:
        """Decide on the last token, and read a thinking token without a decision point.

        Equivalent to `decide` and `read`. The caller makes sure that the session is `idle`, that the token
        holds no decision point or part of one, or is one by its position, and that no budget is reached.

        Parameters
        ----------
        token : int
        statistics : Statistics
            Of the last token; see `decide`.
        state : WatchState
            State of the watch after `token`.
        """
        if self._scorer is not None:
            self._scorer.step(self._token, statistics)
        self._state, self._token = state, token
        self.tokens += 1
        self.thinking_tokens += 1

    def pass_over(self, tokens: Sequence[int], statistics: Sequence[Any], state: WatchState) -> None:
        """Read and decide on tokens in a row that change nothing but counts and signals.

        Equivalent to `read` and `decide` for each, but that `idle` is not known after it. The caller makes
        sure that no thinking block is open before or after any of them; or that they are thinking tokens,
        given with their own `statistics`, that complete and confirm no decision point and reach no budget,
        and that there is no loop guard. `state` is that of the watch after the last.
        """
        self._state = state
        self.tokens += len(tokens)
        if self.phase is _THINKING:
            self.thinking_tokens += len(tokens)
            if self._scorer is not None:
                self._scorer.steps(tokens, statistics)

    def close_thinking(self) -> int | None:
        """Force an exit where the model ends its text although it is still thinking.

        For engines that can replace an end-of-sequence token before it counts: call it between `decide` and
        `read`, and read the token returned instead. No certificate covers these exits.

        Returns
        -------
        int or None
            The token to force; None when the text ends: no thinking block is open, an exit was forced before,
            or the mode is shadow, which only records.
        """
        if self.phase is _THINKING and self.inside and self._forced is None:
            self._limit(Reason.END)
        return self.forced_token

    def finish(self) -> None:
        """End the request; later tokens are ignored."""
        self.phase = Phase.DONE

    def _mark(self, seen: WatchStep, token: int) -> None:
        """Find the decision points of the kinds in `policy.points` at this token."""
        self._confirmed = seen.confirmed
        self._here = seen.here and bool(self._points & CUE)
        self._unsettled = seen.pending and bool(self._points & CUE)
        self._marks = 0
        if self._points & BOUNDARY and token in self.watch.boundaries:
            self._marks |= BOUNDARY
        if self._points & INTERVAL and self.thinking_tokens % self.policy.every == 0:
            self._marks |= INTERVAL
        self._candidate = self._here or self._unsettled or self._marks > 0

    def _observe(self, score: float | None) -> None:
        """Settle the pending cue, then the decision points that the last token completes."""
        if self._confirmed and self._pending is not None:
            self._settle(self._pending, CUE)
        self._pending = None
        if self._candidate:
            value = math.nan if score is None else score
            seen = None if self._scorer is None else self._scorer.snapshot(value)
            candidate = _Candidate(self.tokens - 1, self.thinking_tokens, value, seen)
            kind = self._marks | CUE if self._here else self._marks
            if kind:
                self._settle(candidate, kind)
            if self._unsettled:
                self._pending = candidate
        self._confirmed = self._here = self._candidate = self._unsettled = False

    def _settle(self, point: _Candidate, kind: int) -> None:
        ready = self._guards.admit(point.position)
        score = point.score
        if self._scorer is not None:
            score = self._scorer.score(point.seen) if ready else math.nan
            if kind & CUE:
                self._scorer.cue(self.tokens - 1 - point.token)
        if ready and self.policy.tilt:
            score = float(tilted(score, self._guards.earlier, self.policy.tilt))
        self.events.append(CueEvent(point.token, self.tokens - 1, point.position, score, ready, kind))
        if ready and self.exit is None and passes(score, self._threshold):
            self._record(Reason.SCORE, len(self.events) - 1, score)
            if self.mode is Mode.STOP:
                self._force()

    def _limit(self, reason: Reason) -> None:
        """Exit whatever the score."""
        if self.exit is None:
            self._record(reason, -1, math.nan)
        if self.mode is Mode.STOP:
            self._force()

    def _record(self, reason: Reason, cue: int, score: float) -> None:
        self.exit = Exit(reason, cue, self.tokens - 1, self.thinking_tokens, score, self._threshold)

    def _force(self) -> None:
        self._forced = 0
        self.phase = Phase.FORCING

    def _advance_forcing(self, token: int, thinking: bool) -> None:
        assert self._forced is not None
        expected = self.policy.exit_ids[self._forced]
        self._forced += 1
        if token != expected or self._forced == len(self.policy.exit_ids):
            self.phase = Phase.THINKING if thinking else Phase.ANSWERING
