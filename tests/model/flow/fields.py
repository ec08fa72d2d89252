"""Velocities whose flow is known in closed form, and states for them."""

import math

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


def mixing(t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """dx = -cos(3 t) x, dh = M(t) h with one full matrix for all atoms: a trace estimate of it is noisy."""
    rates = _rates(h.shape[-1]).to(h) + torch.cos(3 * t)[:, None, None] * torch.eye(h.shape[-1]).to(h)
    strength = 1.0 + 3.0 * t[:, None, None]
    return -torch.cos(3 * t)[:, None, None] * x, strength * (h @ rates) * mask[..., None]


def mixing_divergence(n_atoms: int, n_features: int) -> float:
    """Return the integral of the divergence of `mixing` from t = 1 to 0."""
    waves = n_atoms * n_features - 3 * (n_atoms - 1)
    # The integrals from 0 to 1 of cos 3 t, of 3 t cos 3 t and of 1 + 3 t.
    wave, growing = math.sin(3) / 3, math.sin(3) + (math.cos(3) - 1) / 3
    constant = 2.5 * n_atoms * float(_rates(n_features).trace())
    return -(constant + waves * wave + n_atoms * n_features * growing)


def _rates(n_features: int) -> Tensor:
    """Return a fixed matrix with elements of either sign and size 1."""
    return torch.cos(torch.arange(n_features**2, dtype=torch.float64) ** 2).reshape(n_features, n_features)


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
