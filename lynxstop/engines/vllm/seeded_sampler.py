"""Tokens of requests that bring their own random numbers: the same in any batch, order or engine run.

vLLM draws from generators of its own, and a seed of a request does not go together with chunked prefill on a
CPU. Here the token of output position i is a function of its logits and of the number that belongs to the
request and to i (`lynxstop.engines.torch.random`), as in the transformers engine. It is drawn before
vLLM samples and its logit is raised, so that the request is sent as a greedy one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lynxstop.core.types import Sampling
from lynxstop.engines.torch.sampling import draw
from lynxstop.engines.vllm.session_batch import BOOST, BatchStep
from lynxstop.engines.vllm.slots import SlotTable


def draw_tokens(logits: Tensor, table: SlotTable, step: BatchStep) -> None:
    """Raise the logit of each drawn token in place, by less than that of a forced one.

    Parameters
    ----------
    logits : Tensor, shape (rows, vocabulary)
    table : SlotTable
        Says which requests have random numbers of their own.
    step : BatchStep
    """
    rows = table.drawn[step.slots].nonzero()[0]
    groups: dict[Sampling, tuple[list[int], list[float]]] = {}
    for row, slot, index in zip(rows.tolist(), step.slots[rows].tolist(), step.indices(rows), strict=True):
        how = table.options[slot].draw
        assert how is not None
        members, given = groups.setdefault(how.sampling, ([], []))
        members.append(row)
        given.append(how.numbers[min(index + 1, len(how.numbers) - 1)])
    for sampling, (members, given) in groups.items():
        places = torch.tensor(members).to(logits.device, non_blocking=True)
        numbers = torch.tensor(given, dtype=torch.float64).to(logits.device, non_blocking=True)
        tokens = draw(logits[places], numbers, sampling)
        logits[places, tokens] += BOOST / 2
