"""Recording: features and statistics of cue rows, copied to the host once per step that has any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.engines.transformers.observe import statistics
from lynxstop.engines.vllm.seats import Seats
from lynxstop.engines.vllm.spool import Recorded, Spool


class Recorder:
    """Hands the cue rows of recorded requests to a spool.

    Parameters
    ----------
    spool : Spool
    slots : int
        Slots of requests, the idle one included.
    end_token : int
        First exit token, for the end margin.

    Attributes
    ----------
    names : list of str or None
        By slot, the name under which a request is recorded.
    """

    def __init__(self, spool: Spool, slots: int, end_token: int) -> None:
        self.spool = spool
        self.names: list[str | None] = [None] * slots
        self._on = np.zeros(slots, dtype=np.bool_)
        self._end_token = end_token
        self._made_up = 0

    def start(self, slot: int, name: str | None) -> None:
        """Record the request that gets a slot under a name ("" makes one up), or do not (None)."""
        if name == "":
            self._made_up += 1
            name = f"request-{self._made_up}"
        self.names[slot] = name
        self._on[slot] = name is not None

    def look(
        self,
        sessions: Seats,
        slots: NDArray[np.int64],
        indices: Callable[[NDArray[np.int64]], list[int]],
        features: Callable[[Tensor], Tensor],
        logits: Tensor,
    ) -> None:
        """Record the cue rows of a step, from logits that nothing has been forced on yet."""
        recorded = self._on[slots]
        if not recorded.any():
            return
        rows = sessions.candidates()
        rows = rows[recorded[rows]]
        if not len(rows):
            return
        places = torch.from_numpy(rows).to(logits.device)
        scores, positions = sessions.shown()
        block = torch.cat(
            [
                scores[places].unsqueeze(1),
                statistics(logits[places].float().log_softmax(dim=-1), self._end_token),
                positions[places].unsqueeze(1).float(),
                features(places),
            ],
            dim=1,
        )
        host = block.cpu().numpy()
        self.spool.add(
            [
                Recorded(self.names[slot] or "", index, int(line[4]), line[:4].copy(), line[5:].copy())
                for slot, index, line in zip(slots[rows].tolist(), indices(rows), host, strict=True)
            ]
        )
