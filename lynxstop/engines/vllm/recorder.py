"""Recording: features of cue rows, and statistics of rows, copied to the host once per step that has any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.core.statistics import NEXT
from lynxstop.engines.torch.statistics import statistics
from lynxstop.engines.vllm.row_files import RecordedRow, RowBuffer, RowFiles
from lynxstop.engines.vllm.session_batch import BatchStep, SessionBatch
from lynxstop.engines.vllm.slots import SlotTable

_SHOWN = 1 + NEXT
"""Numbers of a row besides its features: thinking tokens, entropy, top gap, end margin."""


class Recorder:
    """Hands over rows of recorded requests: cues, and the first tokens where these are asked for.

    Parameters
    ----------
    rows : RowFiles or RowBuffer
        Where rows go.
    end_token : int
        First exit token, for the end margin.
    """

    def __init__(self, rows: RowFiles | RowBuffer, end_token: int) -> None:
        self.rows = rows
        self._end_token = end_token

    def observe(
        self, table: SlotTable, step: BatchStep, features: Callable[[Tensor], Tensor], logits: Tensor
    ) -> None:
        """Record rows of a step, from logits that nothing has been raised in yet."""
        rows = table.recorded[step.slots].nonzero()[0]
        if not len(rows):
            return
        sessions, slots = table.sessions, step.slots
        at_cue = np.zeros(len(slots), dtype=np.bool_)
        at_cue[sessions.candidates()] = True
        first = np.array([table.options[slot].statistics for slot in slots[rows].tolist()])
        tokens = np.array(step.indices(rows), dtype=np.int64)
        kept = at_cue[rows] | (tokens + 1 < first)
        rows, tokens = rows[kept], tokens[kept]
        if not len(rows):
            return
        cues = rows[at_cue[rows]]
        shown, scores, states = self._fetch(sessions, features, logits, rows, cues)
        of_cue = {row: number for number, row in enumerate(cues.tolist())}
        found = []
        for row, slot, token, (position, *known) in zip(
            rows.tolist(), slots[rows].tolist(), tokens.tolist(), shown.tolist(), strict=True
        ):
            number = of_cue.get(row)
            score = np.nan if number is None else scores[number]
            line = np.array([score, *known], np.float32)
            state = None if number is None else states[number].copy()
            found.append(RecordedRow(table.options[slot].record or "", token, int(position), line, state))
        self.rows.add(found)

    def _fetch(
        self,
        sessions: SessionBatch,
        features: Callable[[Tensor], Tensor],
        logits: Tensor,
        rows: NDArray[np.int64],
        cues: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Bring everything to the host in one transfer: numbers of rows, scores and features of cues."""
        scores, positions = sessions.shown()
        places = torch.from_numpy(rows).to(logits.device)
        after = statistics(logits[places], self._end_token)
        block = torch.cat([positions[places].unsqueeze(1).float(), after], dim=1).flatten()
        if len(cues):
            at = torch.from_numpy(cues).to(logits.device)
            block = torch.cat([block, scores[at], features(at).flatten()])
        host = block.cpu().numpy()
        shown, rest = host[: len(rows) * _SHOWN].reshape(len(rows), _SHOWN), host[len(rows) * _SHOWN :]
        if not len(cues):
            return shown, rest, np.zeros((0, 0), np.float32)
        return shown, rest[: len(cues)], rest[len(cues) :].reshape(len(cues), -1)
