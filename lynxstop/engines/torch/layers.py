"""Numbers of hidden states, as in `output_hidden_states`."""

from __future__ import annotations

from collections.abc import Iterable

from lynxstop.errors import ModelError


def layer_numbers(layers: Iterable[int], depth: int) -> tuple[int, ...]:
    """Return layers as numbers, ascending, each once; negative ones count from the end.

    Parameters
    ----------
    layers : iterable of int
        -1 is the state after the final norm.
    depth : int
        Decoder layers of the model.

    Raises
    ------
    ModelError
        When the model has no such layer.

    Examples
    --------
    >>> layer_numbers((-1, 9, 28), 28)
    (9, 28)
    """
    found = tuple(sorted({layer if layer >= 0 else depth + 1 + layer for layer in layers}))
    check_layers(found, depth)
    return found


def check_layers(layers: Iterable[int], depth: int) -> None:
    """Refuse a layer that a model of this depth does not have.

    Raises
    ------
    ModelError
    """
    for layer in layers:
        if not 0 <= layer <= depth:
            raise ModelError(
                f"There is no hidden state {layer}: the model has {depth} layers.",
                hint=f"Choose from 0 (embeddings) to {depth} (after the final norm).",
            )
