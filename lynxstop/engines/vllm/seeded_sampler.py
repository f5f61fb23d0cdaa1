"""Tokens of requests that bring their own random numbers: the same in any batch, order or engine run.

vLLM draws from generators of its own, and a seed of a request does not go together with chunked prefill on a
CPU. Here the token of output position i is a function of its logits and of the number that belongs to the
request and to i (`lynxstop.engines.torch.random`), as in the transformers engine. It is drawn before
vLLM samples and its logit is raised, so that the request is sent as a greedy one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.core.types import Sampling
from lynxstop.engines.torch.random import uniforms
from lynxstop.engines.torch.sampling import draw
from lynxstop.engines.vllm.request_options import RequestOptions
from lynxstop.engines.vllm.session_batch import BOOST


class SeededSampler:
    """Draws the tokens of requests that bring their own random numbers.

    Parameters
    ----------
    slots : int
        Slots of the batch, the idle one included.
    """

    def __init__(self, slots: int) -> None:
        self._on = np.zeros(slots, dtype=np.bool_)
        self._drawn: dict[int, tuple[Sampling, NDArray[np.float64]]] = {}

    def start(self, slot: int, options: RequestOptions) -> None:
        """Give a slot to a request; the tokens of one without numbers of its own are drawn by vLLM."""
        how = options.draw
        self._on[slot] = how is not None
        if how is not None:
            numbers = uniforms(how.sampling.seed, how.request, how.sampling.max_tokens + 1)
            self._drawn[slot] = how.sampling, numbers[how.start :]

    def apply(
        self, logits: Tensor, slots: NDArray[np.int64], indices: Callable[[NDArray[np.int64]], list[int]]
    ) -> None:
        """Raise the logit of each drawn token, by less than that of a forced one."""
        if not self._drawn:
            return
        rows = self._on[slots].nonzero()[0]
        if not len(rows):
            return
        groups: dict[Sampling, tuple[list[int], list[float]]] = {}
        for row, slot, index in zip(rows.tolist(), slots[rows].tolist(), indices(rows), strict=True):
            sampling, own = self._drawn[slot]
            members, given = groups.setdefault(sampling, ([], []))
            members.append(row)
            given.append(own[min(index + 1, len(own) - 1)])
        for sampling, (members, given) in groups.items():
            places = torch.tensor(members).to(logits.device, non_blocking=True)
            numbers = torch.tensor(given, dtype=torch.float64).to(logits.device, non_blocking=True)
            tokens = draw(logits[places], numbers, sampling)
            logits[places, tokens] += BOOST / 2
