"""The perceptron in torch, by the recipe of scikit-learn's `MLPClassifier`: same loss, same stopping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

_BATCH, _RATE, _PATIENCE, _GAIN, _HELD_OUT = 200, 1e-3, 10, 1e-4, 0.1
"""scikit-learn's defaults: rows of a step, Adam's rate, epochs without a gain, the least gain, its sample."""


class Perceptron(NamedTuple):
    """Weights and biases of the maps, and the epochs it took."""

    maps: tuple[tuple[Tensor, Tensor], ...]
    epochs: int


def fit(
    features: Tensor,
    truth: Tensor,
    rows: Tensor,
    *,
    hidden: Sequence[int],
    alpha: float,
    epochs: int,
    seed: int,
) -> Perceptron:
    """Fit a perceptron with ReLU by Adam; the best epoch on held-out rows is kept.

    Parameters
    ----------
    features : Tensor
        float32, shape (cues, width), standardised.
    truth : Tensor
        float32, shape (cues,), 0 or 1.
    rows : Tensor
        float32, shape (cues,): weights of the rows.
    hidden : sequence of int
        Sizes of the hidden layers.
    alpha : float
        Strength of the L2 penalty, in scikit-learn's scale.
    epochs : int
        At most.
    seed : int
        Fixes initial weights, order and held-out rows; draws are made on the CPU, so they do not depend on
        the device.
    """
    draw = torch.Generator().manual_seed(seed)
    net = _network((features.shape[1], *hidden, 1), draw).to(features.device)
    weights = [layer.weight for layer in net if isinstance(layer, nn.Linear)]
    learn, held = (part.to(features.device) for part in _split(truth.cpu(), draw))
    optimiser = torch.optim.Adam(net.parameters(), _RATE)
    best, kept, idle, epoch = -math.inf, _copy(net), 0, 0
    while epoch < epochs and idle <= _PATIENCE:
        epoch += 1
        order = learn[torch.randperm(len(learn), generator=draw).to(learn.device)]
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            own = rows[batch]
            logits = net(features[batch])[:, 0]
            losses = nn.functional.binary_cross_entropy_with_logits(logits, truth[batch], reduction="none")
            penalty = torch.stack([weight.square().sum() for weight in weights]).sum()
            loss = (own * losses).sum() / own.sum() + 0.5 * alpha * penalty / own.sum()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
        with torch.inference_mode():
            right = (net(features[held])[:, 0] > 0) == (truth[held] > 0)
            score = float((right * rows[held]).sum() / rows[held].sum())
        idle = idle + 1 if score < best + _GAIN else 0
        if score > best:
            best, kept = score, _copy(net)
    return Perceptron(kept, epoch)


def _network(sizes: Sequence[int], draw: torch.Generator) -> nn.Sequential:
    """Layers with the uniform initial weights of Glorot and Bengio (2010)."""
    parts: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        last = number == len(sizes) - 2
        layer = nn.Linear(inputs, outputs)
        bound = math.sqrt((2.0 if last else 6.0) / (inputs + outputs))
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=draw)
            layer.bias.uniform_(-bound, bound, generator=draw)
        parts += [layer] if last else [layer, nn.ReLU()]
    return nn.Sequential(*parts)


def _split(truth: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows to learn on and rows held out, with equal shares of both outcomes."""
    held = []
    for side in (0.0, 1.0):
        own = (truth == side).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=draw)]
        held.append(own[: max(1, round(_HELD_OUT * len(own)))])
    mask = torch.ones(len(truth), dtype=torch.bool)
    mask[torch.cat(held)] = False
    return mask.nonzero()[:, 0], torch.cat(held)


def _copy(net: nn.Sequential) -> tuple[tuple[Tensor, Tensor], ...]:
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    return tuple((layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in linear)
