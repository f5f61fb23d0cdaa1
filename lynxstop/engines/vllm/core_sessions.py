"""What sessions of the core have in common where they serve a batch, one per request."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.core.exits import Exit, Mode, Reason
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.session import Phase, Session
from lynxstop.core.statistics import UNKNOWN, Statistics
from lynxstop.core.watch import Watch
from lynxstop.engines.vllm.request_options import RequestOptions
from lynxstop.engines.vllm.session_batch import BOOST, COUNTERS

_THINKING, _FORCING = Phase.THINKING, Phase.FORCING
_RISK = 0.5
"""Stands for the level of a request, whose threshold its options name."""

_PLACES = {name: place for place, name in enumerate(COUNTERS)}
_COUNTED = {Reason.SCORE: "exits_score", Reason.BUDGET: "exits_budget", Reason.LOOP: "exits_loop"}


class Watched:
    """A watched request: its session, the tokens that end its text, what of it has been counted, and whether
    it may exit by a score."""

    __slots__ = ("decides", "ends", "events", "exit", "session")

    def __init__(self, session: Session, decides: bool, ends: Container[int] = ()) -> None:
        self.session = session
        self.ends = ends
        self.decides = decides
        self.events = 0
        self.exit: Exit | None = None

    @property
    def open(self) -> bool:
        """Whether a thinking block is open that may still be stopped."""
        return self.session.phase is _THINKING and not self.session.stopped

    @property
    def shortened(self) -> bool:
        """Whether a thinking block is open that this engine may close."""
        return self.open and self.session.inside and self.session.mode is Mode.STOP

    @property
    def undecided(self) -> bool:
        """Whether statistics can still decide anything."""
        return self.decides and self.session.exit is None and self.open

    @property
    def ended(self) -> bool:
        """Whether the exit has been forced, after which nothing is decided."""
        return self.session.stopped and self.session.phase is not _FORCING


class CoreSessions:
    """Core sessions that serve a batch: what they ask for, force and count.

    Parameters
    ----------
    watch : Watch
    policy : StopPolicy
        Guards, decision points, exit tokens and the rule.
    device : torch.device
        Where logits are.
    closed : int
        Exit tokens after which the thinking block is closed: a structured request is forced no further.

    Attributes
    ----------
    counters : Tensor
        int64, on the host.
    """

    def __init__(self, watch: Watch, policy: StopPolicy, device: torch.device, closed: int) -> None:
        self.policy = policy
        self.counters = torch.zeros(len(COUNTERS), dtype=torch.int64)
        self._counts = self.counters.numpy()
        self._watch = watch
        self._device = device
        self._closed = closed
        self._policies: dict[tuple[float, int | None, bool], StopPolicy] = {}
        self._asked: dict[int, float] = {}
        self._forced: dict[int, int] = {}

    def settle(self, slots: list[int], lengths: Tensor) -> Tensor | None:
        """Do nothing: every step counts what it did."""
        return None

    def force(self, logits: Tensor) -> None:
        """Raise the logit of the wanted token in rows that are being forced."""
        if self._forced:
            where = torch.tensor([list(self._forced), list(self._forced.values())]).to(logits.device)
            logits[where[0], where[1]] += BOOST

    def candidates(self) -> NDArray[np.int64]:
        """Rows of the last step whose score was wanted."""
        return np.array(list(self._asked), dtype=np.int64)

    def _scores(self, rows: int) -> Tensor:
        """Scores of the last step, meaningful at candidates: float32, shape (rows,)."""
        scores = [self._asked.get(row, math.nan) for row in range(rows)]
        return torch.tensor(scores, dtype=torch.float32, device=self._device)

    def _start(self, prompt_ids: list[int], options: RequestOptions) -> Session:
        """Start the session of a request."""
        mode = Mode.STOP if options.stops else Mode.SHADOW
        return Session(self._watch, self._policy_of(options), prompt_ids, risk=_RISK, mode=mode)

    def _policy_of(self, options: RequestOptions) -> StopPolicy:
        """The policy with the threshold, budget and exit of one request."""
        key = (options.threshold, options.budget, options.structured)
        if key not in self._policies:
            exit_ids = self.policy.exit_ids[: self._closed if options.structured else None]
            level = Level(_RISK, options.threshold)
            self._policies[key] = replace(
                self.policy, exit_ids=exit_ids, levels=(level,), budget=options.budget
            )
        return self._policies[key]

    def _forcing(self, row: int, watched: Watched) -> None:
        """Go on forcing in a row whose token is not new."""
        if (token := watched.session.forced_token) is not None:
            self._forced[row] = token

    def _decide(
        self,
        row: int,
        watched: Watched,
        score: float | None = None,
        statistics: Statistics = UNKNOWN,
        *,
        asked: bool = False,
    ) -> None:
        """Let a session decide on the token that it has read, and count what came of it.

        `asked` says that a score was wanted; None is one that no probe gives.
        """
        session = watched.session
        if asked:
            self._asked[row] = math.nan if score is None else score
            self._count("scored")
            self._count("not_finite", score is not None and math.isnan(score))
        if (token := session.decide(score, statistics)) is not None:
            self._forced[row] = token
        if len(session.events) > watched.events:
            self._count("cues", len(session.events) - watched.events)
            watched.events = len(session.events)
        if session.exit is not watched.exit:
            assert session.exit is not None
            watched.exit = session.exit
            self._count(_COUNTED[session.exit.reason])
            self._count("exit_tokens", session.exit.thinking_tokens)

    def _count(self, name: str, amount: int = 1) -> None:
        self._counts[_PLACES[name]] += amount
