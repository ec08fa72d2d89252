"""Energies of the particle systems of the paper with their gradients, in units of the temperature.

Both are invariant under rotation, reflection and permutation; positions have zero centre of mass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from enflow.model.chem.particle_systems import double_well, lennard_jones


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


DW4 = Potential("dw4", 4, 2, double_well)
LJ13 = Potential("lj13", 13, 3, lennard_jones)
