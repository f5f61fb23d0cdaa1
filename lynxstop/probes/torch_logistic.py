"""Logistic regressions in torch: many at once, with every pass over the features shared.

A fold and a penalty change the weights of rows and the strength of the penalty, not the features. All fits
of a search are columns of one matrix, so that a step costs two products with the features however many there
are. Newton's direction is approximated with one Gram matrix of the features, scaled to the curvature (after
the bound of Böhning and Lindsay 1988), and improved by conjugate gradients. Along a direction logits are
linear, so the line search needs no further product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

WIDEST = 8192
"""Widest features that get a Gram matrix; beyond, its factorisation would cost more than it saves."""

_GRAM_ROWS = 4
"""Rows per column of the features that the Gram matrix is made of: it only has to point the right way."""
_BLOCK = 8192
_REFRESH = (0, 3, 8, 20)
"""Steps at which the curvature is measured again."""


class Fits(NamedTuple):
    """Weights (width, fits), biases (fits,), logits of all rows (cues, fits), and the steps it took."""

    weights: Tensor
    biases: Tensor
    logits: Tensor
    steps: int


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and scales of features, shape (width,), read in blocks; a constant feature has scale 1."""
    means = torch.stack([block.sum(dim=0) for block in _blocks(features)]).sum(dim=0) / len(features)
    rest, squares = torch.zeros_like(means), torch.zeros_like(means)
    for block in _blocks(features):
        centred = block - means
        rest += centred.sum(dim=0)
        squares += centred.square_().sum(dim=0)
    # The rest is what rounding took from the means; it corrects both moments (Chan et al. 1983).
    rest /= len(features)
    scales = (squares / len(features) - rest.square()).clamp_(min=0.0).sqrt_()
    scales[scales <= 10 * torch.finfo(features.dtype).eps * means.abs()] = 1.0
    return means + rest, scales


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))


def part_scales(features: Tensor, parts: Tensor) -> Tensor:
    """Return the scales of each part of the rows, shape (width, parts).

    Parameters
    ----------
    features : Tensor
        float32, shape (cues, width), standardised over all rows.
    parts : Tensor
        float32, shape (cues, parts), 1 where a row is in the part, else 0.
    """
    total = torch.zeros(features.shape[1], parts.shape[1], device=features.device)
    squares = torch.zeros_like(total)
    for block, own in zip(_blocks(features), _blocks(parts), strict=True):
        total += block.T @ own
        squares += block.square().T @ own
    count = parts.sum(dim=0)
    scales = (squares / count - (total / count).square()).clamp_(min=0.0).sqrt_()
    scales[scales < 1e-3] = 1.0
    return scales


def fit(
    features: Tensor,
    truth: Tensor,
    rows: Tensor,
    penalties: Tensor,
    scales: Tensor | None = None,
    *,
    steps: int = 200,
    tolerance: float = 1e-7,
) -> Fits:
    """Fit logistic regressions with an L2 penalty on all but the bias.

    Column j minimises ``penalties[j] * sum(rows[:, j] * loss) + 0.5 * sum((scales[:, j] * w) ** 2)``:
    scikit-learn's objective with ``C = penalties[j]`` on features divided by the scales.

    Parameters
    ----------
    features : Tensor
        float32, shape (cues, width), about standardised.
    truth : Tensor
        float32, shape (cues,), 0 or 1.
    rows : Tensor
        float32, shape (cues, fits): weight of each row in each fit; 0 leaves it out.
    penalties : Tensor
        float32, shape (fits,).
    scales : Tensor, optional
        float32, shape (width, fits); 1 by default.
    steps : int
        At most.
    tolerance : float
        Ends when the expected gain of every fit, per weight of its rows, is below it.
    """
    width, fits = features.shape[1], rows.shape[1]
    ridge = (
        torch.ones(width, fits, device=features.device) if scales is None else scales.square()
    ) / penalties
    sizes = rows.sum(dim=0)
    gram = _gram(features) if width <= WIDEST else None
    weights, biases = torch.zeros_like(ridge), torch.zeros_like(sizes)
    logits = torch.zeros_like(rows)
    old: tuple[Tensor, Tensor, Tensor] | None = None
    solve = _Curvature(gram, penalties)
    step = 0
    for step in range(1, steps + 1):
        chance = logits.sigmoid()
        residual = (chance - truth[:, None]) * rows
        slope = features.T @ residual + ridge * weights
        lean = residual.sum(dim=0)
        if step - 1 in _REFRESH:
            solve.at((chance * (1 - chance) * rows).sum(dim=0), sizes)
            old = None
        down, shift = solve(slope), lean / solve.curvature
        decrement = (slope * down).sum(dim=0) + lean * shift
        if bool((decrement <= 2 * tolerance * sizes).all()):
            break
        path, turn = -down, -shift
        if old is not None:
            before, path_before, turn_before = old
            change = decrement - (before * down).sum(dim=0)
            beta = (change / solve.before).clamp_(min=0.0)
            path, turn = path + beta * path_before, turn + beta * turn_before
            uphill = (slope * path).sum(dim=0) + lean * turn >= 0
            path, turn = torch.where(uphill, -down, path), torch.where(uphill, -shift, turn)
        solve.before = decrement
        old = (slope, path, turn)
        along = features @ path + turn
        length = _line(logits, along, truth[:, None], rows, weights, path, ridge)
        weights += length * path
        biases += length * turn
        logits += length * along
    return Fits(weights, biases, logits, step)


class _Curvature:
    """Solves with ``curvature * Gram / rows + ridge``, one factorisation per distinct penalty."""

    def __init__(self, gram: Tensor | None, penalties: Tensor) -> None:
        self._gram = gram
        self._penalties = penalties
        self.curvature = torch.ones_like(penalties)
        self.before = torch.ones_like(penalties)
        self._factors: list[tuple[Tensor, Tensor]] = []

    def at(self, curvature: Tensor, sizes: Tensor) -> None:
        """Take the summed ``p (1 - p)`` of every fit."""
        self.curvature = curvature.clamp(min=1e-4 * sizes.clamp(min=1.0))
        if self._gram is None:
            return
        self._factors = []
        for penalty in sorted(set(self._penalties.tolist())):
            own = (self._penalties == penalty).nonzero()[:, 0]
            matrix = self._gram * self.curvature[own].mean()
            matrix.diagonal().add_(1.0 / penalty + 1e-6 * matrix.diagonal().mean())
            self._factors.append((own, torch.linalg.cholesky(matrix)))

    def __call__(self, slope: Tensor) -> Tensor:
        if self._gram is None:
            return slope / (self.curvature + 1.0 / self._penalties)
        result = torch.empty_like(slope)
        for own, factor in self._factors:
            result[:, own] = torch.cholesky_solve(slope[:, own], factor)
        return result


def _gram(features: Tensor) -> Tensor:
    """Mean outer product of some rows, evenly taken."""
    every = max(1, len(features) // max(1, _GRAM_ROWS * features.shape[1]))
    gram = torch.zeros(features.shape[1], features.shape[1], device=features.device)
    count = 0
    for block in _blocks(features[::every]):
        gram.addmm_(block.T, block)
        count += len(block)
    return gram.div_(count)


def _line(
    logits: Tensor, along: Tensor, truth: Tensor, rows: Tensor, weights: Tensor, path: Tensor, ridge: Tensor
) -> Tensor:
    """Lengths of the steps, shape (fits,): Newton's method in one number per fit, kept where it is safe."""
    across, within = (ridge * weights * path).sum(dim=0), (ridge * path * path).sum(dim=0)
    widest = 0.25 * (rows * along.square()).sum(dim=0) + within
    low = torch.zeros_like(across)
    high = torch.full_like(across, torch.inf)
    length = low.clone()
    for _ in range(4):
        chance = (logits + length * along).sigmoid_()
        slope = (rows * (chance - truth) * along).sum(dim=0) + across + length * within
        bend = (rows * chance * (1 - chance) * along.square()).sum(dim=0) + within
        low, high = torch.where(slope <= 0, length, low), torch.where(slope > 0, length, high)
        step = length - slope / bend.clamp(min=1e-30)
        middle = torch.where(high.isinf(), length - slope / widest.clamp(min=1e-30), 0.5 * (low + high))
        length = torch.where((step > low) & (step < high), step, middle)
    return torch.where(length.isfinite(), length, 0.0)
