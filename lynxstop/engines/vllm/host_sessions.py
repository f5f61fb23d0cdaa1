"""Core sessions for a probe at cues where the logits are on a CPU.

A look-up per token there costs less than array arithmetic over all rows, and the core decides itself. On a
device it would have to wait for the tokens of every step: see `lynxstop.engines.vllm.device_sessions`.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lynxstop.artifacts.probe import Probe
from lynxstop.core.policy import StopPolicy
from lynxstop.core.session import Phase, Session
from lynxstop.core.statistics import UNKNOWN
from lynxstop.core.watch import Watch
from lynxstop.engines.torch.device_probe import DeviceProbe
from lynxstop.engines.vllm.core_sessions import CoreSessions, Watched
from lynxstop.engines.vllm.quiet_places import Place, QuietPlaces
from lynxstop.engines.vllm.request_options import RequestOptions
from lynxstop.engines.vllm.session_batch import EXIT_KINDS, REASONS, BatchStep, Features

_ROOM = 256
"""Tokens after which a session catches up in any case."""


class _Follower(Watched):
    """A watched request whose session has `missed` tokens up to `place`, and may miss up to `room`."""

    __slots__ = ("missed", "place", "room")

    def __init__(self, session: Session, place: Place, ends: Container[int]) -> None:
        super().__init__(session, True, ends)
        self.missed: list[int] = []
        self.place = place
        self.room = 0


class HostSessions(CoreSessions):
    """Core sessions of up to `slots` requests; see `lynxstop.engines.vllm.session_batch.SessionBatch`.

    Parameters
    ----------
    watch : Watch
        What is watched for.
    policy : StopPolicy
        Guards and exit tokens; without a rule.
    probe : Probe
        Scores cues.
    slots : int
        Requests that have a state at once.
    closed : int
        Exit tokens after which the thinking block is closed: a structured request is forced no further.
    """

    def __init__(self, watch: Watch, policy: StopPolicy, probe: Probe, slots: int, closed: int) -> None:
        super().__init__(watch, policy, torch.device("cpu"), closed)
        self._probe = DeviceProbe(probe, self._device)
        self._places = QuietPlaces(watch)
        self._by_slot: list[_Follower | None] = [None] * slots
        self._slots = np.zeros(0, dtype=np.int64)
        self._rows: list[tuple[int, _Follower]] | None = None

    def admit(self, slot: int, prompt_ids: list[int], options: RequestOptions) -> None:
        """Give a slot to a new request."""
        follower = None
        if options.watched:
            session = self._start(prompt_ids, options)
            self._places.exclude(options.ends)
            follower = _Follower(session, self._places.at(session.state), options.ends)
            self._make_room(follower)
        self.resume(slot, follower)

    def park(self, slot: int) -> Any:
        """Return a request's session, to `resume` it later."""
        if (follower := self._by_slot[slot]) is not None:
            self._catch_up(follower)
            self._make_room(follower)
        return follower

    def resume(self, slot: int, state: Any) -> None:
        """Give a slot to a request that was parked."""
        self._by_slot[slot] = state
        self._rows = None

    def drop(self) -> None:
        """Leave every request of the batch alone from now on."""
        self._by_slot = [None] * len(self._by_slot)
        self._rows, self._forced = None, {}

    def observe(self, step: BatchStep, features: Features, logits: Tensor) -> int:
        """Read a step, score and decide; no request ever loses its state here."""
        if self._rows is None or step.slots is not self._slots:
            self._enter(step)
        self._asked, self._forced = {}, {}
        tokens: list[int] = step.tokens.tolist()
        reads = None if step.read is None else step.read.tolist()
        asking = []
        for row, follower in self._rows or ():
            if reads is not None and not reads[row]:
                self._forcing(row, follower)
                continue
            token, missed = tokens[row], follower.missed
            place = follower.place.get(token)
            if place is not None and len(missed) < follower.room:
                missed.append(token)
                follower.place = place
            elif self._read(row, follower, token):
                asking.append((row, follower))
        if asking:
            self._score(asking, features)
        return 0

    def exits(self) -> Tensor:
        """Exits decided so far in the rows of the last step; see `SessionBatch.exits`."""
        found = [None if one is None else one.exit for one in self._running()]
        kinds = [
            0 if exit is None else exit.thinking_tokens * EXIT_KINDS + REASONS.index(exit.reason)
            for exit in found
        ]
        scores = np.array([math.nan if exit is None else exit.score for exit in found], np.float32)
        return torch.from_numpy(np.stack([np.array(kinds, np.int32), scores.view(np.int32)]))

    def inside(self) -> Tensor:
        """Rows of the last step in which a thinking block is open that may still be stopped."""
        return torch.tensor([one is not None and one.shortened for one in self._running()], dtype=torch.bool)

    def shown(self) -> tuple[Tensor, Tensor]:
        """Scores, meaningful at candidates, and thinking tokens of all rows: float32 and int32."""
        for one in self._running():
            if one is not None:
                self._catch_up(one)
                self._make_room(one)
        seen = [0 if one is None else one.session.thinking_tokens for one in self._running()]
        return self._scores(len(seen)), torch.tensor(seen, dtype=torch.int32)

    def _running(self) -> list[_Follower | None]:
        return [self._by_slot[slot] for slot in self._slots.tolist()]

    def _enter(self, step: BatchStep) -> None:
        """Remember which rows are followed: those of requests whose exit has not been forced."""
        self._slots = step.slots
        self._rows = [
            (row, one) for row, one in enumerate(self._running()) if one is not None and not one.ended
        ]

    def _read(self, row: int, follower: _Follower, token: int) -> bool:
        """Let a session read a token itself; True when its score is wanted, else it has decided."""
        self._catch_up(follower)
        if token in follower.ends:
            follower.session.finish()
            return False
        session = follower.session
        wanted = session.forced_token
        self._places.learn(follower.place, token)
        if session.read(token):
            return True
        self._decide(row, follower)
        if wanted is not None:
            self._count("refused", token != wanted)
            if follower.ended:
                self._rows = None
        self._make_room(follower)
        return False

    def _score(self, asking: list[tuple[int, _Follower]], features: Features) -> None:
        """Score rows that ask for it, and let their sessions decide."""
        first = asking[0][0]
        alone = slice(first, first + 1) if len(asking) == 1 else None
        scores = self._probe.score(features(alone or torch.tensor([row for row, _ in asking])))
        for (row, follower), score in zip(asking, scores.tolist(), strict=True):
            self._decide(row, follower, score, asked=True)
            self._make_room(follower)

    def _catch_up(self, follower: _Follower) -> None:
        """Let a session read what it has missed."""
        if missed := follower.missed:
            follower.session.pass_over(missed, [UNKNOWN] * len(missed), follower.place.state)
            follower.missed = []

    def _make_room(self, follower: _Follower) -> None:
        """Say how many quiet tokens a session may miss from here, where it has read everything."""
        session = follower.session
        follower.place = self._places.at(session.state)
        budget = session.policy.budget
        if session.phase is Phase.FORCING:
            follower.room = 0
        elif session.phase is Phase.THINKING and budget is not None and session.exit is None:
            follower.room = min(_ROOM, budget - session.thinking_tokens - 1)
        else:
            follower.room = _ROOM
