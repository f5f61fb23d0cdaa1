"""Fitting in torch: on the GPU when there is one, with as few copies of the features as possible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynxstop.errors import ConfigError
from lynxstop.probes import torch_logistic, torch_mlp
from lynxstop.probes.affine import FitSettings, Fitted, fold
from lynxstop.probes.rivals import Folds


def fit(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: NDArray[np.float32],
    settings: FitSettings,
    *,
    overwrite: bool = False,
) -> Fitted:
    """Fit as `lynxstop.probes.fitting.fit` says."""
    standard, means, scales = _standardised(features, settings.device, overwrite)
    truth, weights = _like(labels, standard), _like(rows, standard)
    if settings.kind == "logistic":
        penalty = torch.tensor([settings.C], device=standard.device)
        found = torch_logistic.fit(standard, truth, weights[:, None], penalty, steps=settings.max_iter)
        maps: Sequence[tuple[Tensor, Tensor]] = [(found.weights.T, found.biases)]
        steps = found.steps
    else:
        maps, steps = torch_mlp.fit(
            standard,
            truth,
            weights,
            hidden=settings.hidden,
            alpha=1 / settings.C,
            epochs=settings.max_iter,
            seed=settings.seed,
        )
    arrays = [(weight.cpu().numpy(), bias.cpu().numpy()) for weight, bias in maps]
    return Fitted(fold(means.cpu().numpy(), scales.cpu().numpy(), arrays), steps)


def out_of_fold(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: Sequence[NDArray[np.float32]],
    parts: Folds,
    penalties: Sequence[float],
    settings: FitSettings,
    *,
    overwrite: bool = False,
) -> list[NDArray[np.float32]]:
    """Logits of logistic regressions, each cue by the fit of its fold, for every penalty.

    All folds and penalties are fitted at once.

    Parameters
    ----------
    features, labels
        As in `fit`.
    rows : sequence of ndarray
        float32, one per fold, shape (cues learnt from,): their weights.
    parts : Folds
    penalties : sequence of float
        In place of the settings' own.
    settings : FitSettings
    overwrite : bool
        Whether the features may be destroyed.
    """
    standard, _, _ = _standardised(features, settings.device, overwrite)
    learnt = np.zeros((len(labels), len(parts)), np.float32)
    weights = np.zeros_like(learnt)
    for number, ((train, _), own) in enumerate(zip(parts, rows, strict=True)):
        learnt[train, number], weights[train, number] = 1.0, own
    scales = torch_logistic.part_scales(standard, _like(learnt, standard))
    found = torch_logistic.fit(
        standard,
        _like(labels, standard),
        _like(weights, standard).repeat(1, len(penalties)),
        torch.tensor(penalties, device=standard.device).repeat_interleave(len(parts)),
        scales.repeat(1, len(penalties)),
        steps=settings.max_iter,
    )
    logits = found.logits.cpu().numpy().reshape(len(labels), len(penalties), len(parts))
    scores = np.empty((len(penalties), len(labels)), np.float32)
    for number, (_, test) in enumerate(parts):
        scores[:, test] = logits[test, :, number].T
    return list(scores)


def _standardised(
    features: NDArray[np.float32], device: str | None, overwrite: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Features on the device, standardised, with their means and scales."""
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        values = torch.from_numpy(features) if overwrite else torch.tensor(features)
        moved = values.to(place)
    except RuntimeError as error:
        raise ConfigError(
            f"The features cannot be put on the device {device!r}: {error}",
            hint="Choose a device that torch has, with room for the features, or backend='sklearn'.",
        ) from error
    means, scales = torch_logistic.moments(moved)
    return moved.sub_(means).div_(scales), means, scales


def _like(values: NDArray[np.generic], other: Tensor) -> Tensor:
    return torch.as_tensor(np.asarray(values, np.float32), device=other.device)
