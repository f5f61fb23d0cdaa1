"""Sessions on a GPU in one launch per step; the array form beside them serves where Triton does not."""

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

_READ, _BOTH, _FORCE = 0, 1, 2
"""Modes of the kernel."""
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
    are one kernel; or before, where somebody asks what it showed. When the kernel cannot be launched, which
    is counted and logged once, `arrays` goes on from the same states.

    Parameters
    ----------
    arrays : DeviceSessions
        The array form; its states are the states.
    """

    def __init__(self, arrays: DeviceSessions) -> None:
        self.arrays = arrays
        self.counters = arrays.counters
        self._launch: _Launch | None = _Launch(arrays)
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

    def settle(self, slots: list[int], lengths: Tensor) -> None:
        """Count what requests that are finished did in their last step; int lengths of their sequences."""
        self.arrays.settle(slots, lengths)

    def observe(self, step: BatchStep, features: Features, logits: Tensor) -> int:
        """Note a step."""
        self.arrays.running = step.slots
        self._waiting = step, features
        return 0

    def force(self, logits: Tensor) -> None:
        """Read the step, score, decide, and raise the logits of wanted tokens."""
        self._run(logits)

    def candidates(self) -> NDArray[np.int64]:
        """Rows of the last step whose score was wanted; waits for the device."""
        self._run(None)
        if self._launch is None:
            return self.arrays.candidates()
        return np.flatnonzero(self._launch.shows[: self._launch.requests.shape[1]].cpu().numpy() & CANDIDATE)

    def shown(self) -> tuple[Tensor, Tensor]:
        """Scores, meaningful at candidates, and thinking tokens of all rows: float32 and int32."""
        self._run(None)
        if self._launch is None:
            return self.arrays.shown()
        rows = self.arrays.states.index_select(1, self._launch.requests[0].long())
        return rows[PENDING].view(torch.float32), rows[SEEN]

    def _run(self, logits: Tensor | None) -> None:
        """Run the step that waits, once; `logits` where they may be changed now."""
        waiting, self._waiting = self._waiting, None
        if waiting is None and logits is None:
            return
        if self._launch is not None:
            try:
                if waiting is not None:
                    self._launch.prepare(*waiting)
                self._launch(logits, _READ if logits is None else _FORCE if waiting is None else _BOTH)
                return
            except Exception as error:
                logger.error("lynxstop: the fused kernel failed; small kernels serve.", exc_info=error)
                self.counters[_FAILED] += 1
                self._launch = None
        if waiting is not None:
            self.arrays.observe(*waiting, logits=torch.empty(0))
        if logits is not None:
            self.arrays.force(logits)


class _Launch:
    """What the kernel is given, step after step."""

    def __init__(self, arrays: DeviceSessions) -> None:
        self._arrays, policy, device = arrays, arrays.policy, arrays.device
        self._weights = tuple(torch.from_numpy(weight).to(device) for weight, _ in arrays.probe.affines)
        self._biases = tuple(torch.from_numpy(bias).to(device) for _, bias in arrays.probe.affines)
        self._sizes = tuple(len(bias) for bias in self._biases)
        self._half = max(self._sizes)
        units = min(8, _power(self._half))
        width = arrays.probe.width // len(arrays.probe.layers)
        self._constants = {
            "GUARDED": policy.guarded or policy.tilt != 0, "WIDTH": width,
            "SIZES": self._sizes, "HALF": self._half, "UNITS": units,
            "BLOCK": min(_TILE // units, 1024, _power(max(width, self._half))),
        }  # fmt: skip
        most = 2**31 - 1 if policy.max_points is None else policy.max_points
        self._guards = (float(policy.tilt), policy.cooldown, policy.min_tokens, policy.stride, most)
        self._described: NDArray[np.int32] | None = None
        self._scratch = torch.zeros(0, 0, device=device)
        self.requests = self.shows = torch.zeros(0, 0, dtype=torch.int32, device=device)
        """Of the last step: what `lynxstop.engines.vllm.fused_kernel.REQUEST` names, and flags of tokens."""

    def prepare(self, step: BatchStep, features: Features) -> None:
        """Take up a step; free of copies to the device while nothing changes in the batch."""
        self._arrays.unstage()
        self._describe(step)
        self._tokens = step.tokens
        self._tapped, self._placed = 0, step.places is not None
        self._places = step.tokens if step.places is None else step.places
        self._states: tuple[Tensor, ...]
        if isinstance(features, RowFeatures):
            self._states = tuple(one.contiguous() for one in features.states())
            self._tapped = sum(one is not features.last for one in features.states())
        else:
            self._states = (features(None),)
            self._constants["WIDTH"] = self._arrays.probe.width

    def __call__(self, logits: Tensor | None, mode: int) -> None:
        """Launch the kernel: one program per request."""
        from lynxstop.engines.vllm.fused_kernel import fused_step

        arrays, states, many = self._arrays, self._arrays.states, self.requests.shape[1]
        into = self._scratch if logits is None else logits
        fused_step[(many,)](
            states, self.requests, self._tokens, self._places, self._states, into,
            arrays.classes, arrays.table, arrays.exit_ids, self._weights, self._biases, self._scratch,
            arrays.counters, self.shows, states.stride(0), into.stride(0), many,
            int(self._placed), len(arrays.classes) - 1, arrays.columns, *self._guards, mode,
            **self._constants, TAPPED=self._tapped, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip

    def _describe(self, step: BatchStep) -> None:
        many = len(step.slots)
        reads = np.ones(many, dtype=np.bool_) if step.read is None else step.read
        described = np.stack([step.slots, reads]).astype(np.int32)
        if self._described is not None and np.array_equal(described, self._described):
            return
        self._described = described
        self.requests = torch.from_numpy(described).to(self._arrays.device, non_blocking=True)
        if many > len(self._scratch):
            self._scratch = torch.zeros(many, 2 * self._half, device=self._arrays.device)
            self.shows = torch.zeros(many, dtype=torch.int32, device=self._arrays.device)


def _power(number: int) -> int:
    """Least power of 2 that is not smaller."""
    return 1 << (number - 1).bit_length()
