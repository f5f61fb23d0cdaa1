"""Statistics of next-token distributions, on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from lynxstop.core.statistics import DEFINITIONS, NextToken

_LEAST = -1e30


def statistics(logprobs: Tensor, end_token: int) -> Tensor:
    """Compute the statistics of next-token distributions.

    Parameters
    ----------
    logprobs : Tensor, float32, shape (tokens, vocabulary)
        Log-probabilities in nats.
    end_token : int
        Id of the first exit token.

    Returns
    -------
    Tensor
        float32, shape (tokens, NEXT), in nats: the columns of `lynxstop.core.statistics.DEFINITIONS`.
    """
    top = logprobs.topk(2, dim=-1).values
    # An impossible token contributes nothing: zero times any finite number.
    entropy = -torch.linalg.vecdot(logprobs.exp(), logprobs.clamp(min=_LEAST))
    seen = NextToken(entropy, top[:, 0], top[:, 1], logprobs[:, end_token])
    return torch.stack([define(seen) for define in DEFINITIONS.values()], dim=1)


def bits(values: Tensor) -> Tensor:
    """Flatten float32 numbers to int32 of the same bits, to be copied together with token ids."""
    return values.contiguous().view(torch.int32).flatten()
