"""Where the texts of requests end: vLLM may compute rows after that before it sees a text's end.

Under asynchronous scheduling one step more is under way by then, and drafts after the end may be accepted.
Nothing is read from there on, so that every way of scheduling counts and reports the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lynxstop.engines.vllm.request_options import RequestOptions

_ENDLESS = 2**31 - 1


class TextEnds:
    """By slot, the most tokens that a sequence may have and the tokens that end its text, for any device.

    Parameters
    ----------
    slots : int
        Requests at once.
    """

    def __init__(self, slots: int) -> None:
        self._host = np.full((slots, 1), _ENDLESS, dtype=np.int32)
        self._table: Tensor | None = None

    def enter(self, slot: int, options: RequestOptions) -> None:
        """Give a slot to a request."""
        row = np.array([_ENDLESS if options.limit is None else options.limit, *sorted(options.ends)])
        if (missing := len(row) - self._host.shape[1]) > 0:
            self._host = np.pad(self._host, ((0, 0), (0, missing)), constant_values=-1)
        self._host[slot] = -1
        self._host[slot, : len(row)] = row
        self._table = None

    def table(self, device: torch.device) -> Tensor:
        """Return int32 of shape (slots, 1 + most end tokens): each request's limit, its tokens, then -1."""
        if self._table is None:
            self._table = torch.from_numpy(self._host.copy()).to(device, non_blocking=True)
        return self._table

    def over(self, slots: Tensor, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Say which tokens of requests end their texts, or come after that; all of shape (requests,).

        `positions`, their places in the sequences, are only needed where limits may be passed.
        """
        table = self.table(tokens.device)[slots]
        ended = (tokens.unsqueeze(1) == table[:, 1:]).any(dim=1)
        return ended if positions is None else ended | (positions + 1 >= table[:, 0])
