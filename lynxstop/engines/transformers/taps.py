"""Hidden states of chosen layers at the last position, caught while the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from lynxstop.engines.torch.layers import check_layers
from lynxstop.errors import ModelError


class Taps:
    """Catch hidden states while a causal language model runs.

    Layers are numbered as in `output_hidden_states`: 0 is the embeddings, k the output of the k-th decoder
    layer, and the last number is taken after the final norm. Only the last position of each row is kept, and
    only until the next forward pass; nothing is copied before `read`.

    Parameters
    ----------
    model : torch.nn.Module
        Any ``*ForCausalLM`` of transformers.
    layers : sequence of int
        Numbers of the layers to catch, ascending.

    Raises
    ------
    ModelError
        When the decoder layers cannot be found, or a number lies outside 0..depth.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int]) -> None:
        decoder, blocks = _decoder(model)
        self.layers = tuple(layers)
        self.depth = len(blocks)
        self._caught: dict[int, Tensor | None] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ModelError("Layers are given once each, in ascending order.")
        check_layers(self.layers, self.depth)
        for layer in self.layers:
            # The output of a block is the input of the next one; after the last comes the final norm.
            if layer < self.depth:
                hook = self._catch_input(layer)
                self._handles.append(blocks[layer].register_forward_pre_hook(hook, with_kwargs=True))
            else:
                self._handles.append(decoder.register_forward_hook(self._catch_output))

    def read(self, rows: Tensor | None = None) -> Tensor:
        """Return the features of the last forward pass.

        Parameters
        ----------
        rows : Tensor, optional
            int64 indices of the rows wanted, on any device; all rows when None.

        Returns
        -------
        Tensor
            float32 on the model's device, shape (rows, len(layers) * hidden), layers side by side.

        Raises
        ------
        ModelError
            When no forward pass has been caught.
        """
        parts: list[Tensor] = []
        for layer in self.layers:
            state = self._caught.get(layer)
            if state is None or state.dim() != 2:
                raise ModelError(
                    f"No hidden state of layer {layer} was caught: the model has not run as expected."
                )
            parts.append(state if rows is None else state[rows])
        device = parts[-1].device
        return torch.cat([part.to(device, torch.float32) for part in parts], dim=-1)

    def close(self) -> None:
        """Take the hooks off the model; may be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._caught.clear()

    def __enter__(self) -> Taps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _catch_input(self, layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._caught[layer] = _last(args[0] if args else kwargs.get("hidden_states"))

        return hook

    def _catch_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
        self._caught[self.depth] = _last(state)


def _last(state: object) -> Tensor | None:
    """Last position of (rows, length, hidden); copied from a longer pass, so that the rest can be freed."""
    if not isinstance(state, Tensor) or state.dim() != 3:
        return None
    last = state[:, -1]
    return last.clone() if state.shape[1] > 1 else last


def _decoder(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """Find the module that returns `last_hidden_state`, and its list of layers."""
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    depth = getattr(config, "num_hidden_layers", None)
    # Some versions of transformers find no decoder in a model that is one.
    get_decoder = getattr(model, "get_decoder", None)
    found = None if get_decoder is None else get_decoder()
    root: nn.Module = model if found is None else found
    owners = [
        owner
        for owner in root.modules()
        for child in owner.children()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    ]
    if not owners:
        raise ModelError(
            f"The decoder layers of {type(model).__name__} cannot be found.",
            hint="Hidden states can be tapped in decoder-only language models of transformers.",
        )
    owner = owners[0]
    blocks = next(c for c in owner.children() if isinstance(c, nn.ModuleList) and len(c) == depth)
    return owner, blocks
