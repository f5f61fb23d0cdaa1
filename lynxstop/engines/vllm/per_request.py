"""Core sessions, one per request, for bundles with a rule or with decision points other than cues.

A rule keeps signals that cannot be computed from a few numbers per row, so its sessions run on the host, one
by one, and only where something is decided: see `lynxstop.engines.vllm.quiet_tokens`. What they need of a
step, its tokens, the statistics after them and the logits of the probe, is computed for all rows at once on
the device and comes over in one copy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.artifacts.probe import Probe
from lynxstop.core.policy import StopPolicy
from lynxstop.core.statistics import DTYPE, WIDTH, Statistics
from lynxstop.engines.torch.device_probe import DeviceProbe
from lynxstop.engines.torch.statistics import Distributions, bits, prepare
from lynxstop.engines.vllm.core_sessions import CoreSessions, Watched
from lynxstop.engines.vllm.product_automaton import DEAD, ProductAutomaton
from lynxstop.engines.vllm.quiet_tokens import QuietTokens
from lynxstop.engines.vllm.request_options import RequestOptions
from lynxstop.engines.vllm.session_batch import EXIT_KINDS, REASONS, BatchStep, Features
from lynxstop.engines.vllm.statistics import TokenStatistics


class _Parked(NamedTuple):
    watched: Watched | None
    distribution: Distributions | None
    state: int
    exit: tuple[int, float] = (0, math.nan)


class _Known(NamedTuple):
    """A step on the host, by row: tokens; statistics and logits, NaN in rows that have none."""

    tokens: NDArray[np.int32]
    statistics: NDArray[np.float32]
    looked: NDArray[np.bool_]
    scores: NDArray[np.float32]


_ALONE = _Parked(None, None, DEAD)


class PerRequestSessions(CoreSessions):
    """Core sessions of up to `slots` requests; see `lynxstop.engines.vllm.session_batch.SessionBatch`.

    Parameters
    ----------
    automaton : ProductAutomaton
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
    """

    def __init__(
        self,
        automaton: ProductAutomaton,
        policy: StopPolicy,
        probe: Probe,
        device: torch.device,
        slots: int,
        closed: int,
        *,
        record: bool = False,
    ) -> None:
        super().__init__(automaton.watch, policy, device, closed)
        rule = policy.rule
        self._automaton = automaton
        self._probe = DeviceProbe(probe, device) if rule is None or rule.hidden or record else None
        wanted = rule is not None and rule.statistics
        if wanted:
            prepare(device)
        self._statistics = TokenStatistics(slots, policy.exit_ids[0]) if wanted else None
        self._quiet = QuietTokens(automaton, policy, slots)
        self._by_slot: list[Watched | None] = [None] * slots
        self._watched, self._open, self._undecided, self._fresh, self._inside = np.zeros((5, slots), np.bool_)
        self._kinds, self._exit_scores = np.zeros(slots, np.int32), np.full(slots, np.nan, np.float32)
        self._slots = np.zeros(0, dtype=np.int64)

    def admit(self, slot: int, prompt_ids: list[int], options: RequestOptions) -> None:
        """Give a slot to a new request."""
        watched, state = None, DEAD
        if options.watched:
            decides = options.threshold < math.inf
            watched = Watched(self._start(prompt_ids, options), decides, options.ends)
            self._quiet.exclude(options.ends)
            state = self._automaton.start(prompt_ids)
        self.resume(slot, _Parked(watched, None, state))
        self._fresh[slot] = True

    def park(self, slot: int) -> _Parked:
        """Return a request's session, and what its next token is expected to be."""
        kept = None if self._statistics is None else self._statistics.take(slot)
        watched = self._by_slot[slot]
        state = self._quiet.leave(slot, None if watched is None else watched.session)
        return _Parked(watched, kept, state, (int(self._kinds[slot]), float(self._exit_scores[slot])))

    def resume(self, slot: int, state: _Parked) -> None:
        """Give a slot to a request that was parked."""
        self._quiet.enter(slot, state.state)
        self._kinds[slot], self._exit_scores[slot] = state.exit
        self._fresh[slot] = False
        self._follow(slot, state.watched)
        if self._statistics is not None:
            self._statistics.give(slot, state.distribution)

    def drop(self) -> None:
        """Leave every request alone from now on."""
        for slot in range(len(self._by_slot)):
            self.resume(slot, _ALONE)
        self._forced = {}

    def observe(self, step: BatchStep, features: Features, logits: Tensor) -> int:
        """Read a step, score and decide; return how many requests lost their state in it."""
        slots = self._slots = step.slots
        self._asked, self._forced = {}, {}
        if not self._watched[slots].any():
            return 0
        reads = np.ones(len(slots), np.bool_) if step.read is None else step.read
        known = self._fetch(step, reads, features, logits)
        quiet = self._quiet.read(slots, reads, known.tokens, known.statistics, known.looked)
        lost = 0
        for row in np.flatnonzero(self._watched[slots] & ~quiet).tolist():
            slot = int(slots[row])
            watched = self._by_slot[slot]
            assert watched is not None
            if not reads[row]:
                self._forcing(row, watched)
                continue
            self._quiet.catch_up(slot, watched.session)
            if self._read(row, watched, known):
                self._keep(row, slot, watched, bool(known.looked[row]), logits)
            else:
                self.resume(slot, _ALONE)
                lost += 1
        for slot in self._quiet.due(slots):
            if (watched := self._by_slot[slot]) is not None:
                self._quiet.catch_up(slot, watched.session)
        return lost

    def exits(self) -> Tensor:
        """Exits decided so far in the rows of the last step; see `SessionBatch.exits`."""
        scores = self._exit_scores[self._slots].view(np.int32)
        return torch.from_numpy(np.stack([self._kinds[self._slots], scores]))

    def inside(self) -> Tensor:
        """Rows of the last step in which a thinking block is open that may still be stopped."""
        return torch.from_numpy(self._inside[self._slots]).to(self._device, non_blocking=True)

    def shown(self) -> tuple[Tensor, Tensor]:
        """Logits, meaningful at candidates, and thinking tokens of all rows: float32 and int32."""
        positions = torch.from_numpy(self._quiet.seen[self._slots]).to(torch.int32)
        return self._scores(len(self._slots)), positions.to(self._device)

    def _fetch(self, step: BatchStep, reads: NDArray[np.bool_], features: Features, logits: Tensor) -> _Known:
        """Bring over what the sessions need, before they have read their tokens: one copy.

        A row that reads nothing is the end of a prompt, unless its request has been parked before.
        """
        slots, count = step.slots, len(step.slots)
        looked = self._undecided[slots] & (reads | self._fresh[slots]) & (self._statistics is not None)
        scored = self._open[slots] & reads & (self._probe is not None)
        found, logit = torch.empty(0), torch.empty(0)
        if self._statistics is not None and looked.any():
            rows = np.flatnonzero(looked)
            found = self._statistics.observe(logits, rows, slots[rows], step.tokens)
        if self._probe is not None and scored.any():
            some = None if scored.all() else torch.from_numpy(np.flatnonzero(scored)).to(self._device)
            logit = self._probe.score(features(some))
        statistics, scores = np.full((count, WIDTH), np.nan, DTYPE), np.full(count, np.nan, np.float32)
        if self._device.type == "cpu":
            tokens = np.asarray(step.tokens, dtype=np.int32)
            statistics[looked], scores[scored] = found.numpy().reshape(-1, WIDTH), logit.numpy()
            return _Known(tokens, statistics, looked, scores)
        packed = [torch.as_tensor(step.tokens).to(torch.int32)]
        packed += [bits(part) for part in (found, logit) if len(part)]
        host = (torch.cat(packed) if len(packed) > 1 else packed[0]).cpu().numpy()
        numbers, split = host[count:].view(np.float32), WIDTH * int(looked.sum())
        statistics[looked], scores[scored] = numbers[:split].reshape(-1, WIDTH), numbers[split:]
        return _Known(host[:count], statistics, looked, scores)

    def _read(self, row: int, watched: Watched, known: _Known) -> bool:
        """Let a session read and decide; False when what it decides by is not known."""
        session, token = watched.session, int(known.tokens[row])
        if token in watched.ends:
            session.finish()
            return True
        wanted = session.forced_token
        asked = session.read(token)
        statistics = Statistics(*known.statistics[row].tolist())
        if known.looked[row] and session.was_thinking and math.isnan(statistics.logprob):
            return False
        score = float(known.scores[row]) if asked and self._probe is not None else None
        self._decide(row, watched, score, statistics, asked=asked)
        if wanted is not None:
            self._count("refused", token != wanted)
        return True

    def _keep(self, row: int, slot: int, watched: Watched, looked: bool, logits: Tensor) -> None:
        """Keep what the next token's log-probability is read from while it can decide anything."""
        self._follow(slot, None if watched.ended else watched)
        if self._statistics is None or looked == watched.undecided:
            return
        if looked:
            self._statistics.give(slot, None)
        else:
            self._statistics.begin(logits, row, slot)

    def _follow(self, slot: int, watched: Watched | None) -> None:
        """Say in arrays how a session stands; None leaves its slot alone."""
        self._by_slot[slot] = watched
        self._watched[slot] = watched is not None
        session = None if watched is None else watched.session
        self._quiet.follow(slot, session)
        if watched is None or session is None:
            self._open[slot] = self._undecided[slot] = self._inside[slot] = False
            return
        self._open[slot], self._undecided[slot] = watched.open, watched.undecided
        self._inside[slot] = watched.shortened
        taken = session.exit
        if taken is not None:
            self._kinds[slot] = taken.thinking_tokens * EXIT_KINDS + REASONS.index(taken.reason)
            self._exit_scores[slot] = taken.score
