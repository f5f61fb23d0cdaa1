"""Which decoder layers are tapped."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from torch import nn

from lynxstop.engines.vllm.hidden import find_blocks
from lynxstop.errors import ModelError


class LlamaDecoderLayer(nn.Module):
    """As vLLM's, from outside."""

    def forward(self, positions: Any, hidden_states: Any, residual: Any) -> None:
        """Compute nothing."""


class VisionLayer(nn.Module):
    """Of an encoder of images."""

    def forward(self, hidden_states: Any) -> None:
        """Compute nothing."""


def layers(kind: type, count: int) -> Any:
    return nn.ModuleList(kind() for _ in range(count))


def test_an_encoder_with_as_many_layers_is_not_taken_for_the_decoder() -> None:
    # given a model of images and text, both parts equally deep
    model = nn.Module()
    model.vision, model.language = layers(VisionLayer, 3), layers(LlamaDecoderLayer, 3)
    # when its decoder layers are looked for, then those of the text are found
    assert find_blocks(model, 3) is model.language


def test_layers_that_are_not_known_are_named() -> None:
    model = nn.Module()
    model.vision = layers(VisionLayer, 3)
    with pytest.raises(ModelError, match="decoder layers: VisionLayer"):
        find_blocks(model, 3)
    with pytest.raises(ModelError, match="decoder layers: none"):
        find_blocks(model, 4)
