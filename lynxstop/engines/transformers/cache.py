"""A key-value cache with room to grow, whose rows can leave.

The stock dynamic cache copies everything at every token; here a token is written in place, and a leaving row
costs the copy of one row.
"""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, views (rows, heads, length, head size) into larger buffers."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append states of shape (rows, heads, new, head size); return all."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < end:
            self._grow(key_states, value_states, start, end)
        assert self._buffers is not None
        rows = key_states.shape[0]
        views = []
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:rows, :, start:end] = states
            views.append(buffer[:rows, :, :end])
        self.keys, self.values = views
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices` (int64, on the CPU), in this order; a row may be repeated."""
        if self._buffers is None:
            return
        rows, length = len(indices), self.get_seq_length()
        if rows <= self.keys.shape[0]:
            moved = (indices != torch.arange(rows)).nonzero().squeeze(-1)
            for buffer in self._buffers:
                buffer[moved, :, :length] = buffer[indices[moved], :, :length]
        else:
            self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
        self.keys, self.values = (buffer[:rows, :, :length] for buffer in self._buffers)

    def _grow(self, keys: Tensor, values: Tensor, start: int, end: int) -> None:
        capacity = max(end + 64, end * 5 // 4)
        fresh = []
        for old, states in ((self.keys, keys), (self.values, values)):
            rows, heads, _, size = states.shape
            buffer = states.new_empty(rows, heads, capacity, size)
            if start:
                buffer[:, :, :start] = old
            fresh.append(buffer)
        self._buffers = (fresh[0], fresh[1])
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True


def growing_cache(model: nn.Module) -> DynamicCache:
    """Return an empty cache for `model`; layers with a sliding window keep the stock implementation."""
    config = model.config
    cache = DynamicCache(config=config)
    if cache.layers:
        cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    else:
        cache.layer_class_to_replicate = GrowingLayer
    return cache


def cache_argument(names: Container[str]) -> str:
    """Name under which a model takes its cache, of `names`: newer versions of transformers renamed it."""
    return "cache" if "cache" in names else "past_key_values"


def is_windowed(cache: DynamicCache) -> bool:
    """Whether some layer keeps only a sliding window: its rows cannot share a prefix with gaps."""
    return any(type(layer) is not GrowingLayer for layer in cache.layers)
