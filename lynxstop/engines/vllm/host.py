"""Sessions where the batch is on the CPU: the same decisions, but only rows that show something are worked
on.

Arrays of NumPy share the state's memory: an operation on a small array costs a fraction of one on a tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.engines.vllm.machine import CANDIDATE, DEAD, SETTLED, SHIFT, THINKING, WHOLE
from lynxstop.engines.vllm.seats import BOOST, Features
from lynxstop.engines.vllm.sessions import (
    BUDGET,
    ENDLESS,
    FORCED,
    LAST,
    LENGTH,
    MASK,
    PENDING,
    SEEN,
    STATE,
    STOPS,
    THRESHOLD,
    Sessions,
)

Rows = NDArray[np.int64]


class HostSessions(Sessions):
    """Sessions on the CPU; parameters and attributes are those of `Sessions`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._host_classes = self._machine.classes
        self._host_table = self._machine.table.reshape(-1)
        self._host_exit_ids = np.array(self.policy.exit_ids, dtype=np.int64)
        self._counts = self.counters.numpy()
        self._maps = [(np.ascontiguousarray(weight.T), bias) for weight, bias in self._affines]
        self._forcing = False

    def drop(self) -> None:
        """Leave every request of the batch alone from now on."""
        super().drop()
        self._forcing = False

    def step(self, tokens: Tensor | NDArray[Any], features: Features, read: Tensor | None = None) -> None:
        """Read one token per row, score the cues among them, and decide; see `Sessions.step`."""
        fed = np.asarray(tokens)
        mask = None if read is None else read.numpy()
        if self._forcing:
            self._follow(fed, mask)
        state, seen = self._look[STATE], self._look[SEEN]
        entry = self._host_table[state * self._columns + self._host_classes[np.minimum(fed, self._beyond)]]
        if mask is not None:
            entry = np.where(mask, entry, state << SHIFT)
        np.right_shift(entry, SHIFT, out=state)
        self._shown = entry & MASK
        seen += self._shown & THINKING
        busy = self._shown > THINKING
        if self.policy.budget is not None:
            busy |= seen >= self._look[BUDGET]
        rows = busy.nonzero()[0]
        if len(rows):
            self._settle(rows, features)

    def force(self, logits: Tensor) -> None:
        """Raise the logit of the wanted token in rows that are being forced; see `Sessions.force`."""
        if self._forcing:
            forced = self._look[FORCED]
            rows = (forced >= 0).nonzero()[0]
            logits[torch.from_numpy(rows), torch.from_numpy(self._host_exit_ids[forced[rows]])] += BOOST

    def candidates(self) -> Rows:
        """Rows of the last step whose token completes a cue."""
        return np.flatnonzero(self._shown & CANDIDATE)

    def _sit(self) -> None:
        self._look = self._rows.numpy()
        self._numbers = self._look.view(np.float32)
        self._forcing = bool((self._look[FORCED] >= 0).any())

    def _follow(self, fed: NDArray[Any], mask: NDArray[np.bool_] | None) -> None:
        forced = self._look[FORCED]
        active = forced >= 0 if mask is None else (forced >= 0) & mask
        obeyed = fed == self._host_exit_ids[np.maximum(forced, 0)]
        following = np.where(obeyed & (forced + 1 < self._look[LENGTH]), forced + 1, -1)
        np.copyto(forced, following, where=active)
        self._counts[-1] += (active & ~obeyed).sum()
        self._forcing = bool((forced >= 0).any())

    def _settle(self, rows: Rows, features: Features) -> None:
        look, shown, seen = self._look, self._shown[rows], self._look[SEEN][rows]
        candidate = (shown & CANDIDATE) != 0
        scores = np.full(len(rows), np.nan, dtype=np.float32)
        if candidate.any():
            scores[candidate] = self._score_rows(rows[candidate], features)
        whole, settled = (shown & WHOLE) != 0, (shown & SETTLED) != 0
        now, before = whole, settled
        if self._guarded:
            last = look[LAST][rows]
            before = settled & self._distant(seen - 1, last)
            last = np.where(before, seen - 1, last)
            now = whole & self._distant(seen, last)
            look[LAST][rows] = np.where(now, seen, last)
        threshold = self._numbers[THRESHOLD][rows]
        hit = (before & (self._numbers[PENDING][rows] > threshold)) | (now & (scores > threshold))
        spent = ((shown & THINKING) != 0) & (seen >= look[BUDGET][rows]) & ~hit
        self._numbers[PENDING][rows] = scores
        stop = hit | spent
        counts = (
            int(whole.sum() + settled.sum()), int(candidate.sum()), int(np.isnan(scores[candidate]).sum()),
            int(hit.sum()), int(spent.sum()), int(seen[stop].sum()),
        )  # fmt: skip
        self._counts[:-1] += counts
        if stop.any():
            stopped = rows[stop]
            self._numbers[THRESHOLD][stopped] = np.inf
            look[BUDGET][stopped] = ENDLESS
            forced = stopped[look[STOPS][stopped] != 0]
            look[FORCED][forced] = 0
            look[STATE][forced] = DEAD
            self._forcing = self._forcing or len(forced) > 0

    def _score_rows(self, rows: Rows, features: Features) -> NDArray[np.float32]:
        given = features(torch.from_numpy(rows)).numpy()
        values = given
        with np.errstate(all="ignore"):
            for number, (weight, bias) in enumerate(self._maps):
                values = (np.maximum(values, 0) if number else values) @ weight + bias
            # As in `DeviceProbe`: zero times what is not finite is NaN, which never exits.
            scores: NDArray[np.float32] = values[:, 0] + (given * np.float32(0)).sum(axis=1)
        return scores

    def _distant(self, positions: NDArray[np.int32], last: NDArray[np.int32]) -> NDArray[np.bool_]:
        return (positions - last >= self.policy.cooldown) & (positions >= self.policy.min_tokens)
