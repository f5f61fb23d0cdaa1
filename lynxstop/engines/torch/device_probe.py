"""A probe on the model's device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from lynxstop.artifacts.probe import Probe


class DeviceProbe:
    """A probe whose maps live on a device: the same arithmetic as `Probe.score`.

    Parameters
    ----------
    probe : Probe
        The probe to copy.
    device : torch.device
        Device of the features.
    """

    def __init__(self, probe: Probe, device: torch.device) -> None:
        (weight, bias), *others = [
            (torch.tensor(weight), torch.tensor(bias)) for weight, bias in probe.affines
        ]
        # One output more, of zeros: NaN where a feature is not finite, also where ReLU would hide that.
        maps = [(pad(weight, (0, 0, 0, 1)), pad(bias, (0, 1)))]
        for weight, bias in others[:1]:
            maps.append((pad(weight, (0, 1)), bias))
        maps += others[1:]
        self._maps = [(weight.to(device), bias.to(device)) for weight, bias in maps]
        # On a CPU a product of a few rows by one vector takes several times as long by matrix routines.
        self._direct: tuple[Tensor, Tensor] | None = None
        if device.type == "cpu" and len(maps) == 1:
            self._direct = maps[0][0].unsqueeze(1), maps[0][1].sum()

    def score(self, features: Tensor) -> Tensor:
        """Return float32 logits (cues,) of float32 features (cues, width); NaN where one is not finite."""
        if self._direct is not None:
            weight, bias = self._direct
            return (features * weight).sum(dim=(0, 2)) + bias
        (weight, bias), *others = self._maps
        values = linear(features, weight, bias)
        for weight, bias in others:
            values = linear(values.relu(), weight, bias)
        return values.sum(dim=1)
