"""Statistics of the tokens of a running batch, for the rows that need them, in one pass over their logits.

The distribution after a token is seen in the step that reads it; the token's own log-probability stands in
the row of logits that the step before saw. The distributions of the rows that are looked at are therefore
kept until the next step: rows times vocabulary float32 numbers, on the device, never copied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.engines.torch.statistics import Distributions, describe


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
        self._before: Distributions | None = None
        self._aside: dict[int, Distributions] = {}
        self._space: Tensor | None = None

    def observe(
        self, logits: Tensor, rows: NDArray[np.int64], slots: NDArray[np.int64], tokens: Any
    ) -> Tensor:
        """Return what is known of the tokens that some rows have just read.

        Parameters
        ----------
        logits : Tensor, shape (batch, vocabulary)
            After those tokens, before temperature and before anything is forced. They are not changed.
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
        read = torch.as_tensor(tokens).to(logits.device)
        every = len(rows) == len(logits) and np.array_equal(rows, order)
        chosen = torch.from_numpy(rows).to(logits.device, non_blocking=True)
        own = self._own(slots, places, order, (read if every else read[chosen]).long())
        space = self._room(len(rows), logits)
        known, self._before = describe(logits, self._end_token, space, None if every else chosen)
        self._place[slots] = order
        if known.device.type == "cpu":
            return torch.from_numpy(np.column_stack([known.numpy(), own.numpy()]))
        return torch.cat([known, own.unsqueeze(1)], dim=1)

    def begin(self, logits: Tensor, row: int, slot: int) -> None:
        """Keep the distribution after the token of a row that will be looked at from the next step on."""
        self._place[slot] = -1
        self._aside[slot] = describe(logits[row : row + 1], self._end_token)[1]

    def take(self, slot: int) -> Distributions | None:
        """Forget a slot, and return what `give` needs to know it again."""
        place, self._place[slot] = int(self._place[slot]), -1
        aside = self._aside.pop(slot, None)
        if aside is None and place >= 0 and self._before is not None:
            aside = self._before.row(place)
        return aside

    def give(self, slot: int, kept: Distributions | None) -> None:
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

    def _room(self, rows: int, logits: Tensor) -> Tensor:
        """Room for distributions, used again in each step: new memory costs more than what is computed."""
        if self._space is None or self._space.shape[0] < rows:
            shape = (min(2 * rows, len(self._place)), logits.shape[1])
            self._space = torch.empty(shape, dtype=torch.float32, device=logits.device)
        return self._space[:rows]

    def _own(
        self, slots: NDArray[np.int64], places: NDArray[np.int64], order: NDArray[np.int64], tokens: Tensor
    ) -> Tensor:
        """Log-probabilities of the tokens, shape (count,); most steps have the rows of the one before."""
        before = self._before
        if before is not None and before.shifted.shape[0] == len(slots) and np.array_equal(places, order):
            return before.logprobs(tokens)
        own = torch.full((len(slots),), torch.nan, device=tokens.device)
        if before is not None and (places >= 0).any():
            where = torch.from_numpy(np.maximum(places, 0)).to(tokens.device, non_blocking=True)
            known = torch.from_numpy(places >= 0).to(tokens.device, non_blocking=True)
            at = Distributions(before.shifted[where], before.log_total[where])
            own = torch.where(known, at.logprobs(tokens), own)
        for number in np.flatnonzero(places < 0).tolist() if self._aside else ():
            if (aside := self._aside.pop(int(slots[number]), None)) is not None:
                own[number] = aside.logprobs(tokens[number : number + 1])[0]
        return own
