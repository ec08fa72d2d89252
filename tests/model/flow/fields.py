"""Velocities whose flow is known in closed form, and states for them."""

import torch
from torch import Tensor, nn

from enflow.model.flow.geometry import centre


class Linear(nn.Module):
    """dx = a x, dh = b h: everything about it is known."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([a, b], dtype=torch.float64))

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return self.rates[0] * x, self.rates[1] * h


def turning(t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """dx = -cos(3 t) x, dh = sin(5 t): x shrinks and grows again, h is an integral of time alone."""
    t = t[:, None, None]
    return -torch.cos(3 * t) * x, torch.sin(5 * t) * torch.ones_like(h) * mask[..., None]


def turned(x: Tensor, h: Tensor, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor]:
    """Return the solution of `turning` at t1 that starts at (x, h) at t0."""
    t0, t1 = t0[:, None, None], t1[:, None, None]
    return x * torch.exp((torch.sin(3 * t0) - torch.sin(3 * t1)) / 3), h + (torch.cos(5 * t0) - torch.cos(5 * t1)) / 5


def stiff(t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows differ in stiffness by their own size: dx = -|x|^2 x, dh = -8 n_atoms (h - cos(10 t))."""
    rate = 8.0 * mask.sum(1)[:, None, None]
    wave = torch.cos(10 * t)[:, None, None]
    squares = x.square().sum((1, 2), keepdim=True)
    return -squares * x, -rate * (h - wave) * mask[..., None]


def states(
    sizes: list[int], n_features: int, seed: int = 0, width: int | None = None, n_dims: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Centred random positions, features and the mask of molecules of these sizes, float64."""
    source = torch.Generator().manual_seed(seed)
    width = width or max(sizes)
    mask = torch.arange(width) < torch.tensor(sizes)[:, None]
    x, h = torch.zeros(len(sizes), width, n_dims).double(), torch.zeros(len(sizes), width, n_features).double()
    for row, n in enumerate(sizes):  # row by row: a state does not depend on the padding
        x[row, :n] = torch.randn(n, n_dims, generator=source, dtype=torch.float64)
        h[row, :n] = torch.randn(n, n_features, generator=source, dtype=torch.float64)
    return centre(x, mask), h, mask
