"""Energies of the particle systems of the paper, in units of the temperature: p(x) is proportional to exp(-E(x)).

Both are invariant under rotation, reflection and permutation; positions have zero centre of mass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Potential:
    """A system of like particles.

    Attributes:
        energy: (B, N, D) -> (B,).
    """

    name: str
    n_particles: int
    n_dims: int
    energy: Callable[[Tensor], Tensor]

    @property
    def degrees_of_freedom(self) -> int:
        """Dimensions of the subspace of zero centre of mass; what the virial <x . dE/dx> averages to."""
        return (self.n_particles - 1) * self.n_dims

    def gradient(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """dE/dx, without a component along common motion."""
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.energy(x).sum(), x)
        return gradient


def double_well(x: Float[Tensor, "B N D"]) -> Float[Tensor, " B"]:
    """DW4: the sum over pairs i < j of a u^4 + b u^2 with u = d - 4, a = 0.9, b = -4 (Köhler, Klein, Noé 2020)."""
    u = _distances(x) - 4.0
    return (-4.0 * u.square() + 0.9 * u.pow(4)).sum(-1)


def lennard_jones(x: Float[Tensor, "B N D"]) -> Float[Tensor, " B"]:
    """LJ13: the sum over pairs i < j of d^-12 - 2 d^-6, and a trap |x - mean|^2 / 2 that keeps the cluster together.

    Köhler, Klein, Noé 2020, with the strength of Satorras et al. 2021.
    """
    inverse = _distances(x).pow(-6)
    trap = 0.5 * (x - x.mean(-2, keepdim=True)).square().sum((-2, -1))
    return (inverse.square() - 2.0 * inverse).sum(-1) + trap


DW4 = Potential("dw4", 4, 2, double_well)
LJ13 = Potential("lj13", 13, 3, lennard_jones)


def _distances(x: Tensor) -> Tensor:
    i, j = torch.triu_indices(x.shape[-2], x.shape[-2], offset=1, device=x.device)
    distances: Tensor = torch.linalg.vector_norm(x[..., i, :] - x[..., j, :], dim=-1)
    return distances
