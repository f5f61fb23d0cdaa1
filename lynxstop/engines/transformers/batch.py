"""Rows that advance together through a model: cache, attention mask and positions."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lynxstop.engines.transformers.cache import cache_argument, growing_cache, is_windowed


class PaddedBatch:
    """A left-padded batch; rows can leave it or be repeated.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model of transformers.
    device : torch.device
        Where its inputs go.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._cache = growing_cache(model)
        self._mask = torch.ones(0, 0, dtype=torch.long, device=device)
        self._positions = torch.zeros(0, dtype=torch.long, device=device)
        self._length = 0
        taken = inspect.signature(model.forward).parameters
        self._extra: dict[str, Any] = {cache_argument(taken): self._cache}
        if "logits_to_keep" in taken:
            self._extra["logits_to_keep"] = 1

    @property
    def windowed(self) -> bool:
        """Whether some layer only sees a sliding window of slots."""
        return is_windowed(self._cache)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read whole prompts; return the logits after them, shape (rows, vocabulary)."""
        width = max(map(len, prompts))
        ids = torch.tensor(
            [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], dtype=torch.long
        )
        real = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        self._mask = real.to(self._device)
        self._positions = self._mask.sum(dim=1)
        self._length = width
        return self._forward(ids.to(self._device), (self._mask.cumsum(dim=1) - 1).clamp(min=0))

    def advance(self, tokens: Tensor) -> Tensor:
        """Read tokens of shape (rows, count); return the logits after the last, shape (rows, vocabulary)."""
        count = tokens.shape[1]
        self._length += count
        if self._mask.shape[1] < self._length:
            self._mask = nn.functional.pad(self._mask, (0, self._length + 256 - self._mask.shape[1]), value=1)
        steps = torch.arange(count, device=self._device)
        positions = self._positions.unsqueeze(1) + steps
        self._positions = self._positions + count
        return self._forward(tokens, positions)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may be repeated."""
        chosen = torch.tensor(rows, dtype=torch.long)
        self._cache.batch_select_indices(chosen)
        chosen = chosen.to(self._device)
        self._mask, self._positions = self._mask[chosen], self._positions[chosen]

    def forget(self, counts: Sequence[int]) -> None:
        """Hide the last slots of each row, `counts` of them, as if they had never been read."""
        hidden = torch.tensor(counts, dtype=torch.long, device=self._device)
        slots = torch.arange(self._length, device=self._device)
        self._mask = self._mask[:, : self._length] * (slots < self._length - hidden.unsqueeze(1))
        self._positions = self._positions - hidden

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask[:, : self._length],
            position_ids=positions,
            use_cache=True,
            **self._extra,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def survivors(leaving: set[int], rows: int) -> list[int]:
    """Order of the rows that stay: holes are filled from the end, so that few rows move."""
    kept = [row for row in range(rows) if row not in leaving]
    size = len(kept)
    tail = [row for row in kept if row >= size]
    return [tail.pop() if row in leaving else row for row in range(size)]
