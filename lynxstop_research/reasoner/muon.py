"""Muon: momentum whose matrix updates are made orthogonal by Newton-Schulz iteration.

Jordan et al. (2024), https://kellerjordan.github.io/posts/muon; update scale of Liu et al.
(2025), arXiv 2502.16982, so that one learning rate serves Muon and AdamW alike.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Return the nearest matrices with singular values near one; shape ``(n, rows, columns)``."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of a network; matrices of equal shape are updated together."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                update = orthogonalize(torch.stack([self._direction(p, group) for p in parameters]))
                scale = 0.2 * max(shape) ** 0.5
                for parameter, direction in zip(parameters, update, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(direction, alpha=-group["lr"] * scale)

    def _direction(self, parameter: Tensor, group: dict[str, float]) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        buffer: Tensor = self.state[parameter].setdefault("buffer", torch.zeros_like(gradient))
        buffer.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(buffer, group["momentum"])
