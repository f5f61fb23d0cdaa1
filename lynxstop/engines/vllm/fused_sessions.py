"""Sessions on a GPU in one launch per step; the array form beside them serves where Triton does not.

With drafts it is one launch too: a program is a request, and walks its rows.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.engines.vllm.device_sessions import PENDING, SEEN, DeviceSessions
from lynxstop.engines.vllm.hidden import RowFeatures
from lynxstop.engines.vllm.product_automaton import CANDIDATE
from lynxstop.engines.vllm.request_options import RequestOptions
from lynxstop.engines.vllm.session_batch import COUNTERS, BatchStep, Features

logger = logging.getLogger("vllm.lynxstop")

_TILE = 4096
"""Numbers of a weight matrix that a program multiplies at once."""
_FAILED = COUNTERS.index("kernel_failures")


def can_fuse(device: torch.device) -> bool:
    """Whether the kernel can run: on a GPU with Triton, or in Triton's interpreter."""
    here = device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    return here and importlib.util.find_spec("triton") is not None


class FusedSessions:
    """Sessions in one launch per step; see `lynxstop.engines.vllm.session_batch.SessionBatch`.

    The step is launched when its logits may be changed, in `force`, so that reading, deciding and forcing
    are one kernel; or before, where somebody asks what it showed or decided, and forcing is a second one.
    When a kernel cannot be launched, which is counted and logged once, `arrays` goes on from the same states.

    Parameters
    ----------
    arrays : DeviceSessions
        The array form, with or without drafts; its states are the states.
    """

    def __init__(self, arrays: DeviceSessions) -> None:
        self.arrays = arrays
        self.counters = arrays.counters
        self._launch: _Launch | None = _Launch(arrays)
        self._last: _Launch | None = None
        """What read the last step; None when `arrays` did."""
        self._waiting: tuple[BatchStep, Features] | None = None

    def admit(self, slot: int, prompt_ids: list[int], options: RequestOptions) -> None:
        """Give a slot to a new request."""
        self.arrays.admit(slot, prompt_ids, options)

    def park(self, slot: int) -> Any:
        """Return a request's state, to `resume` it later."""
        return self.arrays.park(slot)

    def resume(self, slot: int, state: Any) -> None:
        """Give a slot to a request that was parked."""
        self.arrays.resume(slot, state)

    def drop(self) -> None:
        """Leave every request of the batch alone from now on."""
        self._waiting = None
        self.arrays.drop()

    def settle(self, slots: list[int], lengths: Tensor) -> Tensor | None:
        """Count what requests that are finished did in their last step; int lengths of their sequences."""
        return self.arrays.settle(slots, lengths)

    def observe(self, step: BatchStep, features: Features, logits: Tensor) -> int:
        """Note a step."""
        self.arrays.running = step.slots
        self._waiting = step, features
        return 0

    def force(self, logits: Tensor) -> None:
        """Read the step, score, decide, and raise the logits of wanted tokens."""
        self._run(logits)

    def exits(self) -> Tensor:
        """Exits decided so far in the requests of the last step; see `SessionBatch.exits`."""
        self._run(None)
        return self.arrays.exits() if self._last is None else self._last.exits

    def inside(self) -> Tensor:
        """Rows of the last step in which a thinking block is open that may still be stopped."""
        self._run(None)
        return self.arrays.inside() if self._last is None else self.arrays.open_in(self._last.kept())

    def candidates(self) -> NDArray[np.int64]:
        """Rows of the last step whose score was wanted; waits for the device."""
        self._run(None)
        if self._last is None:
            return self.arrays.candidates()
        return np.flatnonzero(self._last.shows.cpu().numpy() & CANDIDATE)

    def shown(self) -> tuple[Tensor, Tensor]:
        """Scores, meaningful at candidates, and thinking tokens of all rows: float32 and int32."""
        self._run(None)
        if self._last is None:
            return self.arrays.shown()
        rows = self._last.kept()
        return rows[PENDING].view(torch.float32), rows[SEEN]

    def _run(self, logits: Tensor | None) -> None:
        """Run the step that waits, once; `logits` where they may be changed now."""
        waiting, self._waiting = self._waiting, None
        if waiting is None and logits is None:
            return
        if self._launch is not None:
            try:
                if waiting is not None:
                    self._launch.read(*waiting, logits)
                    self._last = self._launch
                elif logits is not None:
                    self._launch.force(logits)
                return
            except Exception as error:
                logger.error("lynxstop: the fused kernel failed; small kernels serve.", exc_info=error)
                self.counters[_FAILED] += 1
                self._launch = None
        if waiting is not None:
            self.arrays.observe(*waiting, logits=torch.empty(0))
            self._last = None
        if logits is None:
            return
        if self._last is None:
            self.arrays.force(logits)
        else:
            self.arrays.raise_logits(logits, self._last.wanted)


class _Launch:
    """What the kernels are given, step after step.

    Attributes
    ----------
    shows, wanted : Tensor
        Of each row of the last step: the flags of its token, and the exit token that is forced after it.
    exits : Tensor
        See `SessionBatch.exits`.
    """

    def __init__(self, arrays: DeviceSessions) -> None:
        self._arrays, policy, device = arrays, arrays.policy, arrays.device
        self._weights = tuple(torch.from_numpy(weight).to(device) for weight, _ in arrays.probe.affines)
        self._biases = tuple(torch.from_numpy(bias).to(device) for _, bias in arrays.probe.affines)
        self._sizes = tuple(len(bias) for bias in self._biases)
        self._half = max(self._sizes)
        units = min(8, _power(self._half))
        self._width = width = arrays.probe.width // len(arrays.probe.layers)
        self._constants = {
            "GUARDED": policy.guarded or policy.tilt != 0,
            "SIZES": self._sizes, "HALF": self._half, "UNITS": units,
            "BLOCK": min(_TILE // units, 1024, _power(max(width, self._half))),
        }  # fmt: skip
        most = 2**31 - 1 if policy.max_points is None else policy.max_points
        self._guards = (float(policy.tilt), policy.cooldown, policy.min_tokens, policy.stride, most)
        self._described: NDArray[np.int32] | None = None
        self._scratch = torch.zeros(0, 0, device=device)
        self._requests = self.shows = self.wanted = self.exits = torch.empty(
            0, 0, dtype=torch.int32, device=device
        )

    def kept(self) -> Tensor:
        """States of the requests of the last step, without drafts: int32, shape (fields, requests)."""
        return self._arrays.states.index_select(1, self._requests[0].long())

    def read(self, step: BatchStep, features: Features, logits: Tensor | None) -> None:
        """Read a step and decide, one program per request; raise logits if they are given.

        Nothing is copied to the device while nothing changes in the batch.
        """
        from lynxstop.engines.vllm.fused_kernel import fused_step

        arrays, drafts = self._arrays, step.drafts
        arrays.unstage()
        self._describe(step)
        if isinstance(features, RowFeatures):
            states = tuple(one.contiguous() for one in features.states())
            tapped, width = sum(one is not features.last for one in features.states()), self._width
        else:
            states, tapped, width = (features(None),), 0, arrays.probe.width
        kept, many = arrays.states, self._requests.shape[1]
        into = self._scratch if logits is None else logits
        ends = None if step.ends is None else step.ends.table(arrays.device)
        fused_step[(many,)](
            kept, self._requests, step.tokens, step.tokens if step.places is None else step.places,
            step.tokens if drafts is None else drafts.positions, step.tokens if ends is None else ends,
            states, into,
            arrays.classes, arrays.table, arrays.exit_ids, self._weights, self._biases, self._scratch,
            arrays.counters, self.shows, self.wanted, self.exits,
            kept.stride(-2), 0 if drafts is None else kept.stride(0), into.stride(0), many,
            0 if ends is None else ends.shape[1],
            int(step.places is not None), len(arrays.classes) - 1, arrays.columns, *self._guards,
            int(logits is not None), DRAFTED=drafts is not None, WIDTH=width, TAPPED=tapped,
            **self._constants, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip

    def force(self, logits: Tensor) -> None:
        """Raise the logits that the last step wants raised."""
        from lynxstop.engines.vllm.fused_kernel import fused_force

        fused_force[(len(self.wanted),)](
            self.wanted, logits, self._arrays.exit_ids, logits.stride(0), num_warps=1, enable_fp_fusion=False
        )

    def _describe(self, step: BatchStep) -> None:
        """Describe the requests of a step as `fused_step` takes it."""
        many, rows, drafts = len(step.slots), len(step.tokens), step.drafts
        described = np.zeros((5, many), dtype=np.int32)
        described[0], described[1] = step.slots, True if step.read is None else step.read
        described[2], described[3] = np.arange(many), 1
        if drafts is not None:
            described[2:] = drafts.starts, drafts.counts, drafts.partial
        if self._described is not None and np.array_equal(described, self._described):
            return
        self._described = described
        device = self._arrays.device
        self._requests = torch.from_numpy(described).to(device, non_blocking=True)
        if len(self.shows) != rows:
            self.shows, self.wanted = torch.empty(2, rows, dtype=torch.int32, device=device)
        if self.exits.shape[1] != many:
            self.exits = torch.empty(2, many, dtype=torch.int32, device=device)
        if many > len(self._scratch):
            self._scratch = torch.empty(many, 2 * self._half, device=device)


def _power(number: int) -> int:
    """Least power of 2 that is not smaller."""
    return 1 << (number - 1).bit_length()
