"""Taps show what `output_hidden_states` would, and keep only what is asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lynxstop.engines.transformers.taps import Taps
from lynxstop.errors import ModelError

Tiny = Callable[..., torch.nn.Module]
DEPTH, HIDDEN = 3, 16
KINDS = ["Llama", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3Text"]


@pytest.mark.parametrize("kind", KINDS)
def test_taps_equal_output_hidden_states(kind: str, tiny: Tiny) -> None:
    # given a model and all its layers
    model = tiny(kind)
    layers = tuple(range(DEPTH + 1))
    ids = torch.tensor([[3, 8, 9], [10, 4, 7]])
    # when it runs once with taps and once with everything kept
    with Taps(model, layers) as taps, torch.inference_mode():
        model(input_ids=ids)
        tapped = taps.read()
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    # then the last positions are the same, side by side
    expected = torch.cat([states[layer][:, -1] for layer in layers], dim=-1)
    assert torch.equal(tapped, expected)


def test_rows_are_picked_and_converted(tiny: Tiny) -> None:
    model = tiny().to(torch.bfloat16)
    with Taps(model, (1, 2)) as taps, torch.inference_mode():
        model(input_ids=torch.tensor([[3], [4], [5]]))
        picked, everything = taps.read(torch.tensor([2, 0])), taps.read()
    assert picked.dtype == torch.float32
    assert torch.equal(picked, everything[[2, 0]])


def test_only_the_last_position_is_held(tiny: Tiny) -> None:
    model = tiny()
    with Taps(model, (1, DEPTH)) as taps, torch.inference_mode():
        model(input_ids=torch.full((2, 40), 5))
        sizes = [state.untyped_storage().size() for state in taps._caught.values() if state is not None]
    assert sizes == [2 * HIDDEN * 4] * 2


@pytest.mark.parametrize("layers", [(DEPTH + 1,), (-1,), (2, 1), (1, 1), ()])
def test_layers_that_do_not_exist_are_refused(layers: tuple[int, ...], tiny: Tiny) -> None:
    with pytest.raises(ModelError):
        Taps(tiny(), layers)


def test_a_model_without_decoder_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be found"):
        Taps(torch.nn.Linear(2, 2), (0,))


def test_closing_takes_the_hooks_off(tiny: Tiny) -> None:
    model = tiny()
    taps = Taps(model, (1, DEPTH))
    taps.close()
    with torch.inference_mode():
        model(input_ids=torch.tensor([[3]]))
    with pytest.raises(ModelError, match="No hidden state"):
        taps.read()
