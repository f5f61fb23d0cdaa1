"""Statistics of next-token distributions, on the device."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = -1e30


def statistics(logprobs: Tensor, end_token: int) -> Tensor:
    """Entropy, top gap and end margin, in nats, of log-probabilities (cues, vocabulary); shape (cues, 3)."""
    top = logprobs.topk(2, dim=-1).values
    # A token that cannot come counts nothing: zero times any finite number.
    entropy = -torch.linalg.vecdot(logprobs.exp(), logprobs.clamp(min=_LEAST))
    return torch.stack([entropy, top[:, 0] - top[:, 1], top[:, 0] - logprobs[:, end_token]], dim=1)


def bits(values: Tensor) -> Tensor:
    """Flatten float32 numbers to int32 of the same bits, to travel beside token ids."""
    return values.contiguous().view(torch.int32).flatten()
