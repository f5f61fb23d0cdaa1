"""Statistics of next-token distributions, on the device."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from lynxstop.core.statistics import DEFINITIONS, DTYPE, LEAST, NextToken

logger = logging.getLogger("lynxstop")

_BLOCK = 512
_PART, _PART_ON_CPU = 1 << 23, 1 << 18
"""Logits that are taken at once. On a CPU what lies between then stays in the caches."""


class Distributions(NamedTuple):
    """Next-token distributions, as what the log-probability of a token is read from.

    Parameters
    ----------
    shifted : Tensor, float32, shape (rows, vocabulary)
        Logits minus the highest of their row; -1e30 for an impossible token.
    log_total : Tensor, float32, shape (rows,)
        Logarithm of the sum of their exponentials.
    """

    shifted: Tensor
    log_total: Tensor

    def logprobs(self, tokens: Tensor) -> Tensor:
        """Log-probabilities in nats of one token in each row; int64 of shape (rows,)."""
        if self.shifted.device.type == "cpu":
            # An operation of NumPy takes a fraction of the time where nothing of it is in the caches.
            own = self.shifted.numpy()[np.arange(len(tokens)), tokens.numpy()]
            return torch.from_numpy(np.where(own > LEAST, own - self.log_total.numpy(), DTYPE(-np.inf)))
        found = self.shifted.gather(1, tokens.unsqueeze(1)).squeeze(1)
        return torch.where(found > LEAST, found - self.log_total, -torch.inf)

    def row(self, row: int) -> Self:
        """A copy of one row."""
        return type(self)(self.shifted[row : row + 1].clone(), self.log_total[row : row + 1].clone())


def describe(
    logits: Tensor, end_token: int, shifted: Tensor | None = None, rows: Tensor | None = None
) -> tuple[Tensor, Distributions]:
    """Compute the statistics of next-token distributions.

    Parameters
    ----------
    logits : Tensor, shape (all rows, vocabulary)
        Logits, or log-probabilities.
    end_token : int
        Id of the first exit token.
    shifted : Tensor, float32, shape (rows, vocabulary), optional
        Where to write `Distributions.shifted`; not part of `logits`.
    rows : Tensor, int64, shape (rows,), optional
        The rows that are wanted; all when None.

    Returns
    -------
    statistics : Tensor
        float32, shape (rows, NEXT), in nats: the columns of `lynxstop.core.statistics.DEFINITIONS`.
    distributions : Distributions
    """
    count, vocabulary = len(logits) if rows is None else len(rows), logits.shape[1]
    if shifted is None:
        shifted = torch.empty((count, vocabulary), dtype=torch.float32, device=logits.device)
    on_cpu = logits.device.type == "cpu"
    if on_cpu and count and (kernel := row_kernel()) is not None:
        each, total = _describe_rows(kernel, logits, end_token, shifted, rows)
        return each, Distributions(shifted, total)
    if rows is not None:
        logits = torch.index_select(logits.float(), 0, rows, out=shifted)
    part = max(1, (_PART_ON_CPU if on_cpu else _PART) // vocabulary)
    if part >= count:
        all_at_once, total = _describe(logits.float(), end_token, shifted)
        return all_at_once, Distributions(shifted, total)
    found, totals = [], []
    for given, out in zip(torch.split(logits, part), torch.split(shifted, part), strict=True):
        statistics_of_part, total = _describe(given.float(), end_token, out)
        found.append(statistics_of_part)
        totals.append(total)
    return torch.cat(found), Distributions(shifted, torch.cat(totals))


@cache
def row_kernel() -> Any:
    """Return `lynxstop.engines.torch.row_kernel.describe_rows`; None where Numba, which vLLM brings, is
    missing, switched off or of no use."""
    try:
        from numba import config

        if config.DISABLE_JIT:
            return None
        from lynxstop.engines.torch.row_kernel import describe_rows
    except Exception as error:
        logger.info("PyTorch computes the statistics of logits, without Numba (%s).", error)
        return None
    return describe_rows


def prepare(device: torch.device) -> None:
    """Compile what `describe` needs on a device, which takes seconds the first time."""
    if device.type == "cpu":
        row_kernel()


def statistics(logits: Tensor, end_token: int) -> Tensor:
    """Return the statistics that `describe` computes, alone."""
    return describe(logits, end_token)[0]


def _describe(logits: Tensor, end_token: int, shifted: Tensor) -> tuple[Tensor, Tensor]:
    highest, second = _top_two(logits)
    torch.sub(logits, highest.unsqueeze(1), out=shifted)
    # An impossible token contributes nothing: zero times any finite number.
    weights = shifted.clamp_(min=LEAST).exp()
    total = weights.sum(dim=1)
    log_total, end = total.log(), shifted[:, end_token]
    end = torch.where(end > LEAST, end, -torch.inf)
    seen = _next_token(log_total, weights.mul_(shifted).sum(dim=1) / total, second - highest, end)
    return torch.stack([define(seen) for define in DEFINITIONS.values()], dim=1), log_total


def _describe_rows(
    kernel: Any, logits: Tensor, end_token: int, shifted: Tensor, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `_describe`, on a CPU, by a kernel that takes row after row."""
    logits = logits.float()
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    many, vocabulary = logits.shape
    if not 0 <= end_token < vocabulary:
        raise IndexError(f"Token {end_token} is not among {vocabulary}.")
    stride = logits.stride(0) if many > 1 else vocabulary
    flat = torch.as_strided(logits, ((many - 1) * stride + vocabulary,), (1,)).detach().numpy()
    starts = stride * (np.arange(many) if rows is None else rows.numpy())
    found = np.empty((len(starts), 5), DTYPE)
    kernel(flat, starts, shifted.numpy().reshape(-1), found, vocabulary, end_token)
    highest, second, total, weighted, end = found.T
    with np.errstate(all="ignore"):
        log_total = np.log(total)
        end = np.where(end > LEAST, end, DTYPE(-np.inf))
        seen = _next_token(log_total, weighted / total, second - highest, end)
        each = np.stack([define(seen) for define in DEFINITIONS.values()], axis=1)
    return torch.from_numpy(each), torch.from_numpy(log_total)


def _next_token(log_total: Any, mean: Any, gap: Any, end: Any) -> NextToken:
    """What statistics are computed from, by row.

    Parameters
    ----------
    log_total : array or tensor of shape (rows,)
        See `Distributions`.
    mean, gap, end : arrays or tensors of shape (rows,)
        The mean of `Distributions.shifted`; its second highest number, and that of the first exit token.
    """
    return NextToken(log_total - mean, -log_total, gap - log_total, end - log_total)


def _top_two(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The two highest logits of each row; they lie in the two blocks with the highest maxima."""
    blocks = logits.shape[1] // _BLOCK
    if blocks > 8:
        whole = torch.unflatten(logits[:, : blocks * _BLOCK], 1, (blocks, _BLOCK))
        best = whole.amax(dim=2).topk(2, dim=1).indices.unsqueeze(2).expand(-1, -1, _BLOCK)
        logits = torch.cat([whole.gather(1, best).flatten(1), logits[:, blocks * _BLOCK :]], dim=1)
    highest, second = logits.topk(2, dim=1).values.unbind(1)
    return highest, second


def bits(values: Tensor) -> Tensor:
    """Flatten float32 numbers to int32 of the same bits, to be copied together with token ids."""
    return values.contiguous().view(torch.int32).flatten()
