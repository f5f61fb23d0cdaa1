"""Hidden states of a served model: the last layer as the sampler gets it, others through buffers.

Layers are numbered as in `output_hidden_states`: state k is what decoder layer k (from 0) takes in, the last
number is the state after the final norm. The buffers are written inside the model's own forward pass, so
they hold under torch.compile and CUDA graphs, where hooks do not run.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from lynxstop.errors import ModelError

TAPPABLE = (
    "LlamaDecoderLayer",
    "Qwen2DecoderLayer",
    "Qwen3DecoderLayer",
    "Qwen3MoeDecoderLayer",
    "GemmaDecoderLayer",
    "DeepseekV2DecoderLayer",
)
"""Decoder layers whose states are tested to equal those of transformers; classes derived from them are
welcome."""
_BUFFER = "lynxstop_state"


@dataclass(slots=True)
class RowFeatures:
    """The features of a step's rows: gathered, or where they lie.

    Parameters
    ----------
    hidden : HiddenStates
    last : Tensor
        What `HiddenStates.take` gave.
    places : Tensor or None
        Index of each row's token in the forward pass; None when they are the same numbers.
    """

    hidden: HiddenStates
    last: Tensor
    places: Tensor | None

    def __call__(self, rows: Tensor | slice | None) -> Tensor:
        """Return the features of rows (int64 indices, or a slice), or of all."""
        return self.hidden.features(self.last, self.places, rows)

    def states(self) -> tuple[Tensor, ...]:
        """Return each layer's states, shape (tokens or rows, width): all but the last by place."""
        return self.hidden.states(self.last)


class HiddenStates:
    """Hidden states at the sampled positions of a step.

    Parameters
    ----------
    model : torch.nn.Module
        The loaded model; its `compute_logits` is wrapped, and its tapped layers.
    layers : sequence of int
        Numbers of the states wanted, ascending.
    depth : int
        Number of the state after the final norm.
    width : int
        Numbers in a state.
    tokens : int
        Most tokens in one forward pass.
    dtype : torch.dtype
        Of the hidden states.
    device : torch.device
        Where they are.

    Raises
    ------
    ModelError
        When a layer is wanted that cannot be tapped in this architecture.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int],
        depth: int,
        width: int,
        tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._layers = tuple(layers)
        self._depth = depth
        self._last: Tensor | None = None
        self._buffers: dict[int, Tensor] = {}
        tapped = [layer for layer in layers if layer < depth]
        if tapped:
            blocks = find_blocks(model, depth, dtype)
            for layer in tapped:
                buffer = torch.zeros(tokens, width, dtype=dtype, device=device)
                self._buffers[layer] = buffer
                _tap(blocks[layer], buffer)
        self._wrap(model)

    def take(self, rows: int, at: int = 0, total: int | None = None) -> Tensor:
        """Return the last hidden states of rows of this step, (rows, width), each once.

        Parameters
        ----------
        rows : int
            Rows wanted.
        at : int
            Number of the first one: the second runner samples a large step in portions.
        total : int, optional
            Rows of the step; `rows` when None.

        Raises
        ------
        ModelError
            When none, or those of other rows, came by.
        """
        last, expected = self._last, rows if total is None else total
        if at + rows == expected:
            self._last = None
        if last is None or len(last) != expected:
            raise ModelError(
                f"{expected} rows of hidden states were expected, {0 if last is None else len(last)} came."
            )
        return last if rows == expected else last[at : at + rows]

    def features(self, last: Tensor, places: Tensor | None, rows: Tensor | slice | None) -> Tensor:
        """Return the features of rows: float32, shape (rows, len(layers) * width).

        Parameters
        ----------
        last : Tensor
            What `take` gave.
        places : Tensor or None
            Index of each row's token in the forward pass; None when they are the same numbers.
        rows : Tensor, slice or None
            int64 indices of the rows wanted; all when None.
        """
        parts = []
        for layer in self._layers:
            if layer == self._depth:
                parts.append(last if rows is None else last[rows])
                continue
            buffer = self._buffers[layer]
            chosen = places if rows is None else rows if places is None else places[rows]
            parts.append(buffer[: len(last)] if chosen is None else buffer[chosen])
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return joined.float()

    def states(self, last: Tensor) -> tuple[Tensor, ...]:
        """Return the buffers of tapped layers, then `last` where the probe reads it."""
        return tuple(last if layer == self._depth else self._buffers[layer] for layer in self._layers)

    def _wrap(self, model: nn.Module) -> None:
        compute: Any = model.compute_logits

        def compute_logits(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._last = hidden_states
            return compute(hidden_states, *args, **kwargs)

        model.__dict__["compute_logits"] = compute_logits


def find_blocks(model: nn.Module, depth: int, dtype: torch.dtype = torch.float32) -> nn.ModuleList:
    """Find the decoder layers; `dtype` is that of the hidden states.

    Raises
    ------
    ModelError
        When there are none, or of a kind whose states are not known to be right.
    """
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    # An encoder of images may have as many layers.
    lists.sort(key=lambda blocks: not _tappable(blocks))
    if not lists or not _tappable(lists[0]) or not all(_takes_residual(block) for block in lists[0]):
        found = type(lists[0][0]).__name__ if lists else "none"
        raise ModelError(
            f"Intermediate layers of {type(model).__name__} cannot be tapped (decoder layers: {found}).",
            hint=f"Train a probe on the last layer, {depth}. Tapped are: {', '.join(TAPPABLE)}.",
        )
    if any(_alters_states(block, dtype) for block in lists[0]):
        raise ModelError(
            f"Intermediate layers of {type(model).__name__} cannot be tapped: it scales its hidden states in "
            "float16, or splits their rows among ranks.",
            hint=f"Use bfloat16 and no sequence parallel experts, or a probe on the last layer, {depth}.",
        )
    return lists[0]


def _tappable(blocks: nn.ModuleList) -> bool:
    return not set(TAPPABLE).isdisjoint(base.__name__ for block in blocks for base in type(block).__mro__)


def _alters_states(block: nn.Module, dtype: torch.dtype) -> bool:
    scaled = dtype == torch.float16 and getattr(block, "routed_scaling_factor", 1.0) != 1.0
    return scaled or bool(getattr(block, "use_sequence_parallel_moe", False))


def _takes_residual(block: nn.Module) -> bool:
    return list(inspect.signature(block.forward).parameters)[:3] == ["positions", "hidden_states", "residual"]


def _tap(block: nn.Module, buffer: Tensor) -> None:
    forward = block.forward
    block.register_buffer(_BUFFER, buffer, persistent=False)

    def tapped(
        positions: Tensor, hidden_states: Tensor, residual: Tensor | None, *args: Any, **kwargs: Any
    ) -> Any:
        state = hidden_states if residual is None else hidden_states + residual
        cast(Tensor, block.lynxstop_state)[: state.shape[0]].copy_(state)
        return forward(positions, hidden_states, residual, *args, **kwargs)

    block.forward = tapped
