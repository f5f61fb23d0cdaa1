"""Drawing one token per row, by inversion: the token is a function of the logits and one uniform number."""

from __future__ import annotations

import torch
from torch import Tensor

from lynxstop.core.types import Sampling


def exact_dtype(device: torch.device) -> torch.dtype:
    """Widest float type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """Draw the next token of every row.

    Tokens are ordered by id, not by probability, so that the last bits of the logits move a boundary of the
    distribution but never reorder it. A row without any finite probability falls back to its largest logit.

    Parameters
    ----------
    logits : Tensor
        Shape (rows, vocabulary), any float type.
    uniforms : Tensor
        Numbers in [0, 1), shape (rows,).
    sampling : Sampling
        Temperature, top_k and top_p, applied in this order; temperature 0 takes the largest logit.

    Returns
    -------
    Tensor
        int64 token ids, shape (rows,).
    """
    if sampling.temperature == 0.0:
        return logits.argmax(dim=-1)
    exact = exact_dtype(logits.device)
    scaled = logits.to(exact) / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[-1]:
        least = scaled.topk(sampling.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    probs = scaled.softmax(dim=-1)
    if sampling.top_p < 1.0:
        probs = _nucleus(probs, sampling.top_p)
    cumulative = probs.cumsum(dim=-1)
    targets = uniforms.to(exact).unsqueeze(-1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, targets, right=True).squeeze(-1)
    # A target that rounds up to the total would step over the last token that has any probability.
    last = probs.shape[-1] - 1 - (probs > 0).flip(-1).to(torch.int8).argmax(dim=-1)
    sound = torch.isfinite(cumulative[:, -1]) & (cumulative[:, -1] > 0)
    return torch.where(sound, torch.minimum(tokens, last), logits.argmax(dim=-1))


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Zero all but the fewest most likely tokens whose mass reaches `top_p`; ties at the edge stay."""
    ordered = probs.sort(dim=-1, descending=True).values
    inside = ordered.cumsum(dim=-1) - ordered < top_p
    least = ordered.masked_fill(~inside, torch.inf).amin(dim=-1, keepdim=True)
    return probs.masked_fill(probs < least, 0.0)
