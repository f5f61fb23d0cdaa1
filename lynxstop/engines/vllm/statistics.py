"""Statistics of the tokens of a running batch, for the rows that need them, in one pass over their logits.

The distribution after a token is seen in the step that reads it; the token's own log-probability stands in
the row of logits that the step before saw. Log-probabilities of the rows that are looked at are therefore
kept until the next step: rows times vocabulary float32 numbers, on the device, never copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.engines.torch.statistics import statistics

PART = 32
"""Rows whose statistics are taken at once: it bounds the memory of what lies between."""


def by_parts(parts: Iterable[Tensor], end_token: int) -> Tensor:
    """Statistics of the next token from log-probabilities that come in parts: shape (rows, NEXT)."""
    found = [statistics(part, end_token) for part in parts]
    return found[0] if len(found) == 1 else torch.cat(found)


class TokenStatistics:
    """Statistics of tokens, step after step.

    A slot that is not in a step keeps what is known of it; one that reads a token without being looked at
    has to be taken out, or its next log-probability is that of another token.

    Parameters
    ----------
    slots : int
        Number of slots of requests.
    end_token : int
        First exit token, for the end margin.
    """

    def __init__(self, slots: int, end_token: int) -> None:
        self._end_token = end_token
        self._place = np.full(slots, -1, dtype=np.int64)
        self._before: Tensor | None = None
        self._aside: dict[int, Tensor] = {}

    def observe(
        self, logits: Tensor, rows: NDArray[np.int64], slots: NDArray[np.int64], tokens: Any
    ) -> Tensor:
        """Return what is known of the tokens that some rows have just read.

        Parameters
        ----------
        logits : Tensor, shape (batch, vocabulary)
            Behind those tokens, before temperature and before anything is forced. They are not changed.
        rows : int64 array of shape (count,)
            Rows of the batch that are wanted.
        slots : int64 array of shape (count,)
            Their slots.
        tokens : Tensor, or array on the CPU, shape (batch,)
            Token read by each row of the batch.

        Returns
        -------
        Tensor
            float32, shape (count, WIDTH), on the device of `logits`: fields of
            `lynxstop.core.statistics.Statistics`. The log-probability is NaN where a row's slot was not
            looked at after the token before.
        """
        self._set_aside(slots)
        places, order = self._place[slots], np.arange(len(slots))
        read = torch.as_tensor(tokens)
        if len(rows) < len(logits) or not np.array_equal(rows, order):
            chosen = torch.from_numpy(rows).to(logits.device, non_blocking=True)
            logits, read = logits[chosen], read[chosen]
        own = self._own(slots, places, order, read.long().unsqueeze(1))
        found = logits.float().log_softmax(dim=-1)
        known = by_parts(torch.split(found, PART), self._end_token)
        self._place[slots] = order
        self._before = found
        return torch.cat([known, own], dim=1)

    def begin(self, logits: Tensor, row: int, slot: int) -> None:
        """Keep the distribution after the token of a row that will be looked at from the next step on."""
        self._place[slot] = -1
        self._aside[slot] = logits[row].float().log_softmax(dim=-1)

    def take(self, slot: int) -> Tensor | None:
        """Forget a slot, and return what `give` needs to know it again."""
        place, self._place[slot] = int(self._place[slot]), -1
        aside = self._aside.pop(slot, None)
        if aside is None and place >= 0 and self._before is not None:
            aside = self._before[place].clone()
        return aside

    def give(self, slot: int, kept: Tensor | None) -> None:
        """Take up a slot where `take` left it, or begin it anew."""
        self._place[slot] = -1
        self._aside.pop(slot, None)
        if kept is not None:
            self._aside[slot] = kept

    def _set_aside(self, slots: NDArray[np.int64]) -> None:
        """Keep the rows of slots that sit out this step."""
        absent = self._place >= 0
        absent[slots] = False
        for slot in np.flatnonzero(absent).tolist():
            self.give(slot, self.take(slot))

    def _own(
        self, slots: NDArray[np.int64], places: NDArray[np.int64], order: NDArray[np.int64], tokens: Tensor
    ) -> Tensor:
        """Log-probabilities of the tokens, shape (count, 1); most steps have the rows of the one before."""
        before = self._before
        if before is not None and len(before) == len(slots) and np.array_equal(places, order):
            return before.gather(1, tokens)
        own = torch.full((len(slots), 1), torch.nan, device=tokens.device)
        if before is not None and (places >= 0).any():
            where = torch.from_numpy(np.maximum(places, 0)).to(tokens.device, non_blocking=True)
            known = torch.from_numpy(places >= 0).to(tokens.device, non_blocking=True)
            own = torch.where(known.unsqueeze(1), before[where, tokens[:, 0]].unsqueeze(1), own)
        for number in np.flatnonzero(places < 0).tolist() if self._aside else ():
            if (aside := self._aside.pop(int(slots[number]), None)) is not None:
                own[number] = aside[tokens[number]]
        return own
