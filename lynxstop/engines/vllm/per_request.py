"""Core sessions, one per request, for bundles with a rule or with decision points other than cues.

A rule keeps signals that are no arithmetic of a few numbers per row, so its sessions run on the host, one by
one. What they need of a step, its tokens, the statistics after them and the logits of the probe, is computed
for all rows at once on the device and comes over in one copy.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.artifacts.probe import Probe
from lynxstop.core.exits import Mode, Reason
from lynxstop.core.policy import Level, StopPolicy
from lynxstop.core.session import Phase, Session
from lynxstop.core.statistics import UNKNOWN, WIDTH, Statistics
from lynxstop.core.watch import Watch
from lynxstop.engines.torch.device_probe import DeviceProbe
from lynxstop.engines.torch.statistics import Distributions, bits
from lynxstop.engines.vllm.request_options import RequestOptions
from lynxstop.engines.vllm.session_batch import BOOST, COUNTERS, EXIT_KINDS, REASONS, BatchStep, Features
from lynxstop.engines.vllm.statistics import TokenStatistics

_THINKING, _FORCING = Phase.THINKING, Phase.FORCING
_RISK = 0.5
"""Stands for the level of a request, whose threshold its options name."""


_COUNTED = {Reason.SCORE: "exits_score", Reason.BUDGET: "exits_budget", Reason.LOOP: "exits_loop"}


class _Watched:
    """A watched request: its session, whether it may exit by a score, and whether it has read nothing yet."""

    __slots__ = ("decides", "fresh", "session")

    def __init__(self, session: Session, decides: bool) -> None:
        self.session = session
        self.decides = decides
        self.fresh = True

    @property
    def open(self) -> bool:
        """Whether a thinking block is open that may still be stopped."""
        return self.session.phase is _THINKING and not self.session.stopped

    @property
    def undecided(self) -> bool:
        """Whether statistics can still decide anything."""
        return self.decides and self.session.exit is None and self.open


class _Parked(NamedTuple):
    watched: _Watched | None
    distribution: Distributions | None


class _Known(NamedTuple):
    """A step on the host: a token per row; statistics and logits by row, where there are some."""

    tokens: list[int]
    statistics: dict[int, Statistics]
    scores: dict[int, float]


class PerRequestSessions:
    """Core sessions of up to `slots` requests; see `lynxstop.engines.vllm.session_batch.SessionBatch`.

    Parameters
    ----------
    watch : Watch
        What is watched for.
    policy : StopPolicy
        Guards, decision points, exit tokens and the rule.
    probe : Probe
        Gives the logits.
    device : torch.device
        Where features are.
    slots : int
        Requests that have a state at once.
    closed : int
        Exit tokens after which the thinking block is closed: a structured request is forced no further.
    record : bool
        Compute logits even for a rule that needs none.

    Attributes
    ----------
    counters : Tensor
        int64, on the host.
    """

    def __init__(
        self,
        watch: Watch,
        policy: StopPolicy,
        probe: Probe,
        device: torch.device,
        slots: int,
        closed: int,
        *,
        record: bool = False,
    ) -> None:
        rule = policy.rule
        self.policy = policy
        self.counters = torch.zeros(len(COUNTERS), dtype=torch.int64)
        self._counts = self.counters.numpy()
        self._watch = watch
        self._closed = closed
        self._device = device
        self._probe = DeviceProbe(probe, device) if rule is None or rule.hidden or record else None
        wanted = rule is not None and rule.statistics
        self._statistics = TokenStatistics(slots, policy.exit_ids[0]) if wanted else None
        self._by_slot: list[_Watched | None] = [None] * slots
        self._policies: dict[tuple[float, int | None, bool], StopPolicy] = {}
        self._batch: list[_Watched | None] = []
        self._asked: dict[int, float] = {}
        self._forced: dict[int, int] = {}

    def admit(self, slot: int, prompt_ids: list[int], options: RequestOptions) -> None:
        """Give a slot to a new request."""
        watched = None
        if options.watched:
            mode = Mode.STOP if options.stops else Mode.SHADOW
            session = Session(self._watch, self._options(options), prompt_ids, risk=_RISK, mode=mode)
            watched = _Watched(session, options.threshold < math.inf)
        self.resume(slot, _Parked(watched, None))

    def park(self, slot: int) -> _Parked:
        """Return a request's session, and what its next token is expected to be."""
        kept = None if self._statistics is None else self._statistics.take(slot)
        return _Parked(self._by_slot[slot], kept)

    def resume(self, slot: int, state: _Parked) -> None:
        """Give a slot to a request that was parked."""
        self._by_slot[slot] = state.watched
        if self._statistics is not None:
            self._statistics.give(slot, state.distribution)

    def drop(self) -> None:
        """Leave every request alone from now on."""
        for slot in range(len(self._by_slot)):
            self.resume(slot, _Parked(None, None))
        self._forced = {}

    def observe(self, step: BatchStep, features: Features, logits: Tensor) -> int:
        """Read a step, score and decide; return how many requests lost their state in it."""
        slots = step.slots.tolist()
        self._batch = [self._by_slot[slot] for slot in slots]
        self._asked, self._forced = {}, {}
        reads = [True] * len(slots) if step.read is None else step.read.tolist()
        if not any(self._batch):
            return 0
        known = self._fetch(step, reads, features, logits)
        lost = 0
        for row, watched in enumerate(self._batch):
            if watched is None:
                continue
            if not reads[row]:
                if (token := watched.session.forced_token) is not None:
                    self._forced[row] = token
            elif self._read(row, watched, known):
                self._follow(row, slots[row], watched, row in known.statistics, logits)
            else:
                self.resume(slots[row], _Parked(None, None))
                lost += 1
        return lost

    def force(self, logits: Tensor) -> None:
        """Raise the logit of the wanted token in rows that are being forced."""
        if self._forced:
            where = torch.tensor([list(self._forced), list(self._forced.values())]).to(logits.device)
            logits[where[0], where[1]] += BOOST

    def exits(self) -> Tensor:
        """Exits decided so far in the rows of the last step; see `SessionBatch.exits`."""
        taken = [None if watched is None else watched.session.exit for watched in self._batch]
        kinds = [
            0 if one is None else one.thinking_tokens * EXIT_KINDS + REASONS.index(one.reason)
            for one in taken
        ]
        scores = [math.nan if one is None else one.score for one in taken]
        found = np.array([kinds, np.array(scores, dtype=np.float32).view(np.int32)], dtype=np.int32)
        return torch.from_numpy(found)

    def inside(self) -> Tensor:
        """Rows of the last step in which a thinking block is open that may still be stopped."""
        rows = [
            one is not None and one.open and one.session.inside and one.session.mode is Mode.STOP
            for one in self._batch
        ]
        return torch.tensor(rows, dtype=torch.bool).to(self._device, non_blocking=True)

    def candidates(self) -> NDArray[np.int64]:
        """Rows of the last step whose score was wanted."""
        return np.array(list(self._asked), dtype=np.int64)

    def shown(self) -> tuple[Tensor, Tensor]:
        """Logits, meaningful at candidates, and thinking tokens of all rows: float32 and int32."""
        scores = [self._asked.get(row, math.nan) for row in range(len(self._batch))]
        positions = [0 if watched is None else watched.session.thinking_tokens for watched in self._batch]
        return (
            torch.tensor(scores, dtype=torch.float32, device=self._device),
            torch.tensor(positions, dtype=torch.int32, device=self._device),
        )

    def _options(self, options: RequestOptions) -> StopPolicy:
        """The policy with the threshold, budget and exit of one request."""
        key = (options.threshold, options.budget, options.structured)
        if key not in self._policies:
            exit_ids = self.policy.exit_ids[: self._closed if options.structured else None]
            level = Level(_RISK, options.threshold)
            self._policies[key] = replace(
                self.policy, exit_ids=exit_ids, levels=(level,), budget=options.budget
            )
        return self._policies[key]

    def _fetch(self, step: BatchStep, reads: list[bool], features: Features, logits: Tensor) -> _Known:
        """Bring over what the sessions need, before they have read their tokens: one copy."""
        live = [
            (row, watched) for row, watched in enumerate(self._batch) if watched is not None and watched.open
        ]
        scored = [row for row, watched in live if reads[row]] if self._probe else []
        looked = [
            row
            for row, watched in (live if self._statistics else ())
            if watched.decides and (reads[row] or watched.fresh) and watched.session.exit is None
        ]
        parts = [torch.as_tensor(step.tokens).to(torch.int32)]
        if looked and self._statistics is not None:
            rows = np.array(looked, dtype=np.int64)
            parts.append(bits(self._statistics.observe(logits, rows, step.slots[rows], step.tokens)))
        if scored and self._probe is not None:
            rows = np.array(scored, dtype=np.int64)
            parts.append(bits(self._probe.score(features(torch.from_numpy(rows).to(self._device)))))
        host = (torch.cat(parts) if len(parts) > 1 else parts[0]).cpu().numpy()
        tokens, numbers = host[: len(reads)].tolist(), host[len(reads) :].view(np.float32)
        lines = numbers[: WIDTH * len(looked)].reshape(-1, WIDTH).tolist()
        return _Known(
            tokens,
            {row: Statistics(*line) for row, line in zip(looked, lines, strict=True)},
            dict(zip(scored, numbers[WIDTH * len(looked) :].tolist(), strict=True)),
        )

    def _read(self, row: int, watched: _Watched, known: _Known) -> bool:
        """Let a session read and decide; False when what it decides by is not known."""
        session, token = watched.session, known.tokens[row]
        wanted = session.forced_token
        points, stopped = len(session.events), session.exit
        watched.fresh = False
        asked = session.read(token)
        statistics = known.statistics.get(row, UNKNOWN)
        if statistics is not UNKNOWN and session.was_thinking and math.isnan(statistics.logprob):
            return False
        score = None
        if asked:
            score = known.scores.get(row)
            self._asked[row] = math.nan if score is None else score
        forced = session.decide(score, statistics)
        if forced is not None:
            self._forced[row] = forced
        if asked or len(session.events) > points:
            self._count("cues", len(session.events) - points)
            self._count("scored", asked)
            self._count("not_finite", score is not None and math.isnan(score))
        if session.exit is not None and stopped is None:
            self._count(_COUNTED[session.exit.reason])
            self._count("exit_tokens", session.exit.thinking_tokens)
        if wanted is not None and token != wanted:
            self._count("refused")
        return True

    def _count(self, name: str, amount: int = 1) -> None:
        self._counts[COUNTERS.index(name)] += amount

    def _follow(self, row: int, slot: int, watched: _Watched, looked: bool, logits: Tensor) -> None:
        """Keep what the next token's log-probability is read from while it can decide anything."""
        if watched.session.stopped and watched.session.phase is not _FORCING:
            self._by_slot[slot] = None
        if self._statistics is None or looked == watched.undecided:
            return
        if looked:
            self._statistics.give(slot, None)
        else:
            self._statistics.begin(logits, row, slot)
