"""Sessions on the device under speculative decoding: a request has a row per draft, read one after the other.

Which drafts are accepted is known only in the next step, from the position of a request's first row. So the
states after each number of rows are kept, and the next step goes on from the one that holds. What the rows
count is kept with them and counted then. No step waits for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.engines.vllm.device_sessions import _FIELDS, EXIT, STATE, DeviceSessions, silence, silent
from lynxstop.engines.vllm.product_automaton import DEAD
from lynxstop.engines.vllm.request_options import RequestOptions
from lynxstop.engines.vllm.session_batch import COUNTERS, BatchStep, Features

COUNTS = slice(_FIELDS, _FIELDS + len(COUNTERS))
BASE, READ = COUNTS.stop, COUNTS.stop + 1
_WIDTH = READ + 1
"""A kept state: the fields of a session, what its rows counted, the position of the first row of the last
step, and how many rows that read."""
_LOST = COUNTERS.index("lost")


class DraftedSessions(DeviceSessions):
    """Sessions of up to `slots` requests with up to `drafts` drafts each; see `DeviceSessions`.

    Parameters
    ----------
    *given
        As for `DeviceSessions`.
    drafts : int
        Most drafts of a request in a step.
    """

    def __init__(self, *given: Any, drafts: int) -> None:
        super().__init__(*given)
        self._depth = drafts + 2
        self._kept = torch.zeros(self._depth, _WIDTH, self._slots.shape[1], dtype=torch.int32)
        self._kept[:, :_FIELDS] = silent().unsqueeze(1)
        self._kept = self._kept.to(self.device)
        self._wanted: Tensor | None = None

    @property
    def states(self) -> Tensor:
        """Kept states of all slots: int32, shape (levels, fields, slots)."""
        return self._kept

    def admit(self, slot: int, prompt_ids: list[int], options: RequestOptions) -> None:
        """Give a slot to a new request: its first row is the last token of its prompt."""
        super().admit(slot, prompt_ids, options)
        state = torch.zeros(_WIDTH, dtype=torch.int32)
        state[:_FIELDS] = self._staged[slot]
        state[BASE] = len(prompt_ids) - 1
        self._staged[slot] = state.expand(self._depth, _WIDTH)

    def park(self, slot: int) -> Tensor:
        """Return a copy of the kept states of a request, to `resume` it later."""
        self.unstage()
        return self._kept[:, :, slot].clone()

    def drop(self) -> None:
        """Leave every request of the batch alone from now on."""
        state = torch.zeros(_WIDTH, dtype=torch.int32)
        state[:_FIELDS] = silent()
        for slot in self.running.tolist():
            self._staged[slot] = state.expand(self._depth, _WIDTH)
        self._wanted = None

    def settle(self, slots: list[int], lengths: Tensor) -> Tensor | None:
        """Count what requests that are finished did in their last step; int lengths of their sequences."""
        self.unstage()
        kept = self._kept[:, :, torch.tensor(slots, device=self.device)]
        return self._current(kept, lengths.to(torch.int32) - 1)[EXIT:_FIELDS]

    def observe(self, step: BatchStep, features: Features, logits: Tensor) -> int:
        """Read the rows of each request in order, score and decide; what is lost is counted on the device."""
        drafts = step.drafts
        assert drafts is not None
        self.running = step.slots
        self.unstage()
        index = self._bring(step.slots)
        kept = self._kept[:, :, index]
        starts, held = self._bring(drafts.starts), self._bring(drafts.partial)
        first = drafts.positions[starts].to(torch.int32)
        current = self._current(kept, first, held)
        self._accepted = current[EXIT:_FIELDS].clone()
        self._bind(current[:_FIELDS])
        self._counting = current[COUNTS]
        after, live = [current.clone()], ~held
        wanted = torch.full(step.tokens.shape, -1, dtype=torch.int32, device=self.device)
        for number in range(int(drafts.counts.max())):
            rows = self._bring(drafts.starts + np.minimum(number, drafts.counts - 1))
            tokens = step.tokens[rows]
            live = live & self._bring(drafts.counts > number) & (tokens >= 0)
            read = live if number or step.read is None else live & self._bring(step.read)
            over = self._over(step, index, tokens, drafts.positions[rows])
            over = None if over is None else over & live
            self.step(tokens.clamp(min=0), lambda _, rows=rows: features(rows), read, over)  # type: ignore[misc]
            current[READ] += live
            wanted[rows] = torch.where(live, self._forced, wanted[rows])
            after.append(current.clone())
        after += [current] * (self._depth - len(after))
        following = torch.stack(after)
        following[:, BASE], following[:, READ] = first, current[READ]
        self._kept.index_copy_(2, index, torch.where(held, kept, following))
        self._wanted = wanted
        return 0

    def force(self, logits: Tensor) -> None:
        """Raise the logit of the wanted token in rows that are being forced."""
        if self._wanted is not None:
            self.raise_logits(logits, self._wanted)

    def exits(self) -> Tensor:
        """Exits decided in rows that were accepted; those of the last step are known in the next."""
        return self._accepted

    def _current(self, kept: Tensor, first: Tensor, held: Tensor | None = None) -> Tensor:
        """Take from the kept states those at positions, and count what led to them: shape (_WIDTH, requests).

        A request whose position is none of those kept is lost, and left alone; `held` ones stay as they are.
        """
        chosen = first - kept[0, BASE]
        known = (chosen >= 0) & (chosen <= kept[0, READ])
        at = chosen.clamp(min=0).minimum(kept[0, READ]).long().expand(1, _WIDTH, -1)
        current = kept.gather(0, at).squeeze(0)
        touched = torch.ones_like(known) if held is None else ~held
        self.counters += (current[COUNTS] * (known & touched)).sum(dim=1)
        lost = touched & ~known & (current[STATE] != DEAD)
        self.counters[_LOST] += lost.sum()
        silence(current, lost)
        current[_FIELDS:] = 0
        return current

    def _tally(self, first: int, counts: Tensor) -> None:
        """Keep what the rows counted with their states."""
        self._counting[first : first + len(counts)] += counts.to(torch.int32)

    def unstage(self) -> None:
        """Write the states of requests that have come."""
        for slot, state in self._staged.items():
            self._kept[:, :, slot] = state.to(self.device, non_blocking=True)
        self._staged.clear()

    def _bring(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)
