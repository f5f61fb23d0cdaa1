"""A request that would end its text while it is still thinking ends its thinking instead, and answers."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from lynxstop.core.exits import Reason
from lynxstop.engines.vllm.session_batch import REASONS, BatchStep


class EndOfText:
    """Gives the logit of the tokens that end a text to the one that ends the thinking, where a block is open.

    Greedy requests close their thinking exactly where they would have ended their text. No certificate covers
    that. Where a grammar forbids the closing token, the text ends as it would have.

    Parameters
    ----------
    end_ids : collection of int
        Tokens that end a text.
    close_id : int
        The token that ends the thinking.
    slots : int
        Requests that have a state at once.
    device : torch.device
    """

    def __init__(self, end_ids: Collection[int], close_id: int, slots: int, device: torch.device) -> None:
        self._ids = torch.tensor(sorted(end_ids), dtype=torch.int64, device=device)
        self._close = close_id
        self._due = torch.zeros(slots, dtype=torch.bool, device=device)
        self._done = torch.zeros(slots, dtype=torch.bool, device=device)

    def enter(self, slot: int) -> None:
        """Give a slot to a request."""
        self._due[slot] = self._done[slot] = False

    def apply(self, logits: Tensor, inside: Tensor, step: BatchStep, exits: Tensor) -> Tensor:
        """Change the logits of open blocks in place, shape (rows, vocabulary), and add what came of it.

        Returns
        -------
        Tensor
            `exits`, as `SessionBatch.exits` gives them, with the requests whose thinking was ended here.
        """
        slots = torch.from_numpy(step.slots).to(logits.device, non_blocking=True)
        closed = self._due[slots] & (step.tokens == self._close)
        if step.read is not None:
            closed &= torch.from_numpy(step.read).to(logits.device, non_blocking=True)
        done = self._done[slots] | closed
        ends, close = logits[:, self._ids], logits[:, self._close]
        inside = inside & (close > -torch.inf)
        best = ends.max(dim=1).values
        self._done[slots], self._due[slots] = done, inside & (best > close)
        logits[:, self._close] = torch.where(inside, torch.maximum(close, best), close)
        logits[:, self._ids] = ends.masked_fill(inside.unsqueeze(1), -torch.inf)
        exits = exits.to(logits.device, non_blocking=True)
        kinds = torch.where(done & (exits[0] == 0), REASONS.index(Reason.END), exits[0])
        return torch.stack([kinds, exits[1]])
