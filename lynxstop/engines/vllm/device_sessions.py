"""The sessions of a whole batch on its device: the array form of `lynxstop.core.session`.

The state of a request is one column of an int32 matrix. Rows of the running batch work on a copy that stays
in place until the batch changes, so that a step is arithmetic on a few small vectors, masked instead of
branching: no Python per row, nothing that waits for the device. A CPU takes this form under speculative
decoding only; see `lynxstop.engines.vllm.host_sessions`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.artifacts.probe import Probe
from lynxstop.core.policy import StopPolicy
from lynxstop.engines.torch.device_probe import DeviceProbe
from lynxstop.engines.vllm.product_automaton import (
    CANDIDATE,
    DEAD,
    MASK,
    SETTLED,
    SHIFT,
    THINKING,
    WHOLE,
    ProductAutomaton,
)
from lynxstop.engines.vllm.request_options import RequestOptions
from lynxstop.engines.vllm.session_batch import BOOST, COUNTERS, EXIT_KINDS, BatchStep, Features

STATE, SEEN, LAST, NUMBER, ADMITTED, FORCED, LENGTH, STOPS, BUDGET, THRESHOLD, PENDING = range(11)
EXIT, SCORE = 11, 12
"""Rows of the state: automaton state, thinking tokens, position of the last eligible cue, cues and eligible
cues so far, exit token being forced (-1: none), exit tokens to force, whether stops are forced, budget,
threshold and score of the last token (float32), and the exit as `SessionBatch.exits` gives it."""
_REFUSED = COUNTERS.index("refused")
_FIELDS = 13
_NONE = -(2**30)
ENDLESS = 2**30


class DeviceSessions:
    """Sessions of up to `slots` requests, as tensors on the device.

    Parameters
    ----------
    automaton : ProductAutomaton
        What is watched for.
    policy : StopPolicy
        Guards and exit tokens.
    probe : Probe
        Scores cues.
    device : torch.device
        Where logits are.
    slots : int
        Requests that have a state at once.
    closed : int
        Exit tokens after which the thinking block is closed: a structured request is forced no further.

    Attributes
    ----------
    counters : Tensor
        int64, one number per name in `COUNTERS`.
    running : int64 array
        Slots of the last step.
    reports_exits : bool
        Whether `exits` is wanted; it costs some arithmetic.
    """

    reports_exits = True

    def __init__(
        self,
        automaton: ProductAutomaton,
        policy: StopPolicy,
        probe: Probe,
        device: torch.device,
        slots: int,
        closed: int,
    ) -> None:
        self.device = device
        self.policy = policy
        self._counted = policy.guarded or policy.tilt != 0
        self.automaton, self.probe = automaton, probe
        self._closed = closed
        self._probe = DeviceProbe(probe, device)
        self.classes = torch.from_numpy(automaton.classes).to(device)
        self.table = torch.from_numpy(automaton.table.reshape(-1)).to(device)
        self.columns = automaton.table.shape[1]
        self._within = torch.from_numpy(automaton.within).to(device)
        self._beyond = torch.tensor(len(automaton.classes) - 1, device=device)
        tilt = torch.tensor(policy.tilt, dtype=torch.float32, device=device)
        self._tilt = tilt if policy.tilt else None
        self.exit_ids = torch.tensor(policy.exit_ids, dtype=torch.int64, device=device)
        self._slots = torch.zeros(_FIELDS, slots, dtype=torch.int32, device=device)
        self._slots.copy_(silent().unsqueeze(1))
        self.running = np.zeros(0, dtype=np.int64)
        self._loaded: NDArray[np.int64] | None = None
        self._given: NDArray[np.int64] | None = None
        self._staged: dict[int, Tensor] = {}
        self.counters = torch.zeros(len(COUNTERS), dtype=torch.int64, device=device)

    def admit(self, slot: int, prompt_ids: list[int], options: RequestOptions) -> None:
        """Give a slot to a new request."""
        state = np.zeros(_FIELDS, dtype=np.int32)
        numbers = state.view(np.float32)
        state[STATE] = self.automaton.start(prompt_ids) if options.watched else DEAD
        state[LAST] = _NONE
        state[FORCED] = -1
        state[LENGTH] = self._closed if options.structured else len(self.policy.exit_ids)
        state[STOPS] = options.stops
        state[BUDGET] = ENDLESS if options.budget is None else min(options.budget, ENDLESS)
        numbers[THRESHOLD] = options.threshold
        numbers[PENDING] = numbers[SCORE] = np.nan
        self._staged[slot] = torch.from_numpy(state)

    def park(self, slot: int) -> Tensor:
        """Return a copy of a request's state, to `resume` it later."""
        if slot in self._staged:
            return self._staged[slot]
        self._write_back()
        return self._slots[:, slot].clone()

    def resume(self, slot: int, state: Tensor) -> None:
        """Give a slot to a request that was parked."""
        self._staged[slot] = state

    def drop(self) -> None:
        """Leave every request of the batch alone from now on."""
        for slot in self.running.tolist():
            self._staged[slot] = silent()
        self._loaded = None

    def load(self, slots: NDArray[np.int64]) -> None:
        """Say which slots are the rows of the coming step; free when nothing has changed.

        The same array given again must hold the same slots.
        """
        if not self._staged and self._loaded is not None:
            if slots is self._given:
                return
            if np.array_equal(slots, self._loaded):
                self._given = slots
                return
        self._write_back()
        self.unstage()
        self._given = slots
        self.running = self._loaded = slots.copy()
        self._index = torch.from_numpy(self._loaded).to(self.device, non_blocking=True)
        self._bind(self._slots.index_select(1, self._index))

    @property
    def states(self) -> Tensor:
        """States of all slots: int32, shape (fields, slots)."""
        return self._slots

    def unstage(self) -> None:
        """Write the states of requests that have come."""
        if self._staged:
            where = torch.tensor(list(self._staged), dtype=torch.int64).to(self.device, non_blocking=True)
            what = torch.stack(
                [state.to(self.device, non_blocking=True) for state in self._staged.values()], dim=1
            )
            self._slots.index_copy_(1, where, what)
            self._staged.clear()

    def _bind(self, states: Tensor) -> None:
        """Work on states from now on: shape (fields, rows)."""
        self._rows = states
        rows = list(states)
        self._state, self._seen, self._last, self._number, self._admitted = rows[:FORCED]
        self._forced, self._length, self._stops, self._budget = rows[FORCED:THRESHOLD]
        self._threshold, self._pending = (rows[row].view(torch.float32) for row in (THRESHOLD, PENDING))
        self._exit, self._exit_score = rows[EXIT], rows[SCORE].view(torch.float32)
        # Whether a row may be forced, or have a budget: a device would have to be waited for to know.
        self._forcing = True
        self._limited = self.device.type != "cpu" or bool((self._budget < ENDLESS).any())

    def settle(self, slots: list[int], lengths: Tensor) -> Tensor | None:
        """Do nothing: every step counts what it did."""
        return None

    def observe(self, step: BatchStep, features: Features, logits: Tensor) -> int:
        """Read a step, score and decide; no request ever loses its state here."""
        self.load(step.slots)
        read = None if step.read is None else torch.from_numpy(step.read).to(self.device, non_blocking=True)
        self.step(step.tokens, features, read, self._over(step, self._index, step.tokens))
        return 0

    def step(
        self, tokens: Tensor, features: Features, read: Tensor | None = None, over: Tensor | None = None
    ) -> None:
        """Read one token per row, score the cues among them, and decide.

        Parameters
        ----------
        tokens : Tensor
            Token ids, integers of shape (rows,).
        features : callable
            Gives the features taken at these tokens.
        read : Tensor, optional
            bool, shape (rows,): rows whose token counts; the others (prompts) keep their state. All when
            None.
        over : Tensor, optional
            bool, shape (rows,): rows whose token ends the text, or comes after its end.
        """
        if over is not None:
            silence(self._rows, over if read is None else over & read)
        self._advance(tokens, read)
        column = self.classes[torch.minimum(tokens, self._beyond)]
        entry = self.table[torch.add(column, self._state, alpha=self.columns)]
        if read is not None:
            entry = torch.where(read, entry, self._state << SHIFT)
        torch.bitwise_right_shift(entry, SHIFT, out=self._state)
        self._flags = entry & MASK
        self._seen += self._flags & THINKING
        self._decide(features, read)

    def force(self, logits: Tensor) -> None:
        """Raise the logit of the wanted token in rows that are being forced; `logits` is (rows,
        vocabulary)."""
        if self._forcing:
            self.raise_logits(logits, self._rows[FORCED])

    def raise_logits(self, logits: Tensor, forced: Tensor) -> None:
        """Raise the logit of the exit token that is forced in each row (-1: none); shape (rows,)."""
        active = forced >= 0
        if self._none(active):
            return
        wanted = self.exit_ids[forced.clamp(min=0)].unsqueeze(1)
        logits.scatter_(1, wanted, logits.gather(1, wanted) + active.unsqueeze(1) * BOOST)

    def candidates(self) -> NDArray[np.int64]:
        """Rows of the last step whose token completes a cue; waits for the device."""
        return np.flatnonzero(self._flags.cpu().numpy() & CANDIDATE)

    def shown(self) -> tuple[Tensor, Tensor]:
        """Scores, meaningful at candidates, and thinking tokens of all rows: float32 and int32."""
        return self._rows[PENDING].view(torch.float32), self._rows[SEEN]

    def exits(self) -> Tensor:
        """Exits decided so far in the rows of the last step; see `SessionBatch.exits`."""
        return self._rows[EXIT:]

    def inside(self) -> Tensor:
        """Rows of the last step in which a thinking block is open that may still be stopped."""
        return self.open_in(self._rows)

    def open_in(self, states: Tensor) -> Tensor:
        """Say in which states a thinking block is open that may still be stopped; shape (fields, rows)."""
        return self._within[states[STATE]] & (states[STOPS] != 0)

    def _over(
        self, step: BatchStep, slots: Tensor, tokens: Tensor, positions: Tensor | None = None
    ) -> Tensor | None:
        """Say which tokens of these slots end the text, or come after its end."""
        return None if step.ends is None else step.ends.over(slots, tokens, positions)

    def _advance(self, tokens: Tensor, read: Tensor | None) -> None:
        """Move on in the exit tokens; a token that is not the wanted one ends the forcing."""
        if not self._forcing:
            return
        active = self._forced >= 0
        if self._none(active):
            self._forcing = False
            return
        wanted = self.exit_ids[self._forced.clamp(min=0)]
        if read is not None:
            active = active & read
        obeyed = tokens == wanted
        following = self._forced + 1
        following = torch.where(obeyed & (following < self._length), following, -1)
        torch.where(active, following, self._forced, out=self._forced)
        self._tally(_REFUSED, (active & ~obeyed).unsqueeze(0))

    def _decide(self, features: Features, read: Tensor | None) -> None:
        events = self._flags & (CANDIDATE | WHOLE | SETTLED)
        if not self._limited and self._none(events):
            return
        spent = ((self._flags & THINKING) != 0) & (self._seen >= self._budget)
        if self._none((events != 0) | spent):
            return
        candidate = (self._flags & CANDIDATE) != 0
        unscored = self._none(candidate)
        scores = self._pending if unscored else self._probe.score(features(None))
        whole = (self._flags & WHOLE) != 0
        settled = (self._flags & SETTLED) != 0
        earlier, pending = self._exceeds(settled, self._pending, self._seen - 1)
        now, current = self._exceeds(whole, scores, self._seen)
        hit = earlier | now
        spent &= ~hit
        stop = hit | spent
        lost = candidate & torch.isnan(scores)
        counts = torch.stack([whole, settled, candidate, lost, hit, spent, stop]) * 1
        counts[-1] *= self._seen
        counts[1] += counts[0]
        self._tally(0, counts[1:])
        if not self._none(stop):
            if self.reports_exits:
                kind = self._seen * EXIT_KINDS + 1 + spent
                torch.where(stop, kind, self._exit, out=self._exit)
                score = torch.where(earlier, pending, current)
                torch.where(hit, score, self._exit_score, out=self._exit_score)
            force = stop & (self._stops != 0)
            self._forced.masked_fill_(force, 0)
            self._forcing = True
            self._state.masked_fill_(force, DEAD)
            self._threshold.masked_fill_(stop, torch.inf)
            self._budget.masked_fill_(stop, ENDLESS)
        if not unscored:
            self._pending.copy_(scores if read is None else torch.where(read, scores, self._pending))

    def _exceeds(self, cues: Tensor, scores: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Say which cues exit, and return their scores as they are compared; all of shape (rows,)."""
        if self._none(cues):
            return cues, scores
        if self._counted:
            scores = self._tilted(scores)
            cues = self._admit(cues, positions)
        return cues & (scores > self._threshold), scores

    def _none(self, rows: Tensor) -> bool:
        """Whether a mask has no row. False on a device, which would have to be waited for to know."""
        return self.device.type == "cpu" and not bool(rows.any())

    def _tally(self, first: int, counts: Tensor) -> None:
        """Add what the rows counted to the counters from `first` on; shape (counters, rows)."""
        self.counters[first : first + len(counts)] += counts.sum(dim=1)

    def _tilted(self, scores: Tensor) -> Tensor:
        """Lower scores as `lynxstop.core.rule.tilted` does, by the eligible cues so far; shape (rows,)."""
        return scores if self._tilt is None else scores - self._tilt * self._admitted

    def _admit(self, cues: Tensor, positions: Tensor) -> Tensor:
        """Apply the guards to cues, as `lynxstop.core.rule.Eligibility` does; all of shape (rows,)."""
        policy = self.policy
        self._number += cues
        admitted: Tensor = (
            cues & (positions - self._last >= policy.cooldown) & (positions >= policy.min_tokens)
        )
        if policy.stride > 1:
            admitted &= self._number % policy.stride == 0
        if policy.max_points is not None:
            admitted &= self._admitted < policy.max_points
        self._admitted += admitted
        torch.where(admitted, positions, self._last, out=self._last)
        return admitted

    def _write_back(self) -> None:
        """Copy the rows of the last step back to their slots."""
        if self._loaded is not None:
            self._slots.index_copy_(1, self._index, self._rows)
            self._loaded = None


def silence(states: Tensor, rows: Tensor) -> None:
    """Leave requests alone from now on: states of shape (fields, requests), bool of shape (requests,)."""
    states[STATE].masked_fill_(rows, DEAD)
    states[FORCED].masked_fill_(rows, -1)
    states[BUDGET].masked_fill_(rows, ENDLESS)


def silent() -> Tensor:
    """Return the state of a request that is not watched."""
    state = torch.zeros(_FIELDS, dtype=torch.int32)
    state[STATE], state[FORCED], state[BUDGET] = DEAD, -1, ENDLESS
    return state
