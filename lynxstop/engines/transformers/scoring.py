"""The probe on the model's device: the same arithmetic as `Probe.score`, without leaving the device."""

from __future__ import annotations

import torch
from torch import Tensor

from lynxstop.probes.probe import Probe


class DeviceProbe:
    """A probe whose maps live on a device.

    Parameters
    ----------
    probe : Probe
        The probe to copy.
    device : torch.device
        Where features will be.
    """

    def __init__(self, probe: Probe, device: torch.device) -> None:
        self._maps = [
            (torch.tensor(weight, device=device), torch.tensor(bias, device=device))
            for weight, bias in probe.affines
        ]

    def score(self, features: Tensor) -> Tensor:
        """Return float32 logits (cues,) of float32 features (cues, width); NaN where one is not finite."""
        sound = torch.isfinite(features).all(dim=1)
        values = features.masked_fill(~sound.unsqueeze(1), 0.0)
        for number, (weight, bias) in enumerate(self._maps):
            values = torch.nn.functional.linear(values.relu() if number else values, weight, bias)
        return values[:, 0].masked_fill(~sound, torch.nan)
