"""A probe on the model's device."""

from __future__ import annotations

import torch
from torch import Tensor

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
        maps = [(torch.tensor(weight), torch.tensor(bias)) for weight, bias in probe.affines]
        # One output more, of zeros: NaN where a feature is not finite.
        maps[0] = (
            torch.nn.functional.pad(maps[0][0], (0, 0, 0, 1)),
            torch.nn.functional.pad(maps[0][1], (0, 1)),
        )
        self._maps = [(weight.to(device), bias.to(device)) for weight, bias in maps]

    def score(self, features: Tensor) -> Tensor:
        """Return float32 logits (cues,) of float32 features (cues, width); NaN where one is not finite."""
        (weight, bias), *others = self._maps
        values = torch.nn.functional.linear(features, weight, bias)
        # It reaches the logit even where ReLU would hide it.
        values, unsound = values[:, :-1], values[:, -1]
        for weight, bias in others:
            values = torch.nn.functional.linear(values.relu(), weight, bias)
        return values[:, 0] + unsound
