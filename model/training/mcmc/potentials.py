"""The energies of the paper's particle systems and their gradients, in units of the temperature.

The energies are invariant under rotation, reflection and permutation. Positions have zero centre of mass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from enflow.model.chem.particle_systems import double_well, lennard_jones


@dataclass(frozen=True)
class Potential:
    """A system of identical particles.

    Attributes:
        name: name of the system.
        n_particles: number of particles, N.
        n_dims: dimensions of space, D.
        energy: the energy (B, N, D) -> (B,), in units of the temperature.
    """

    name: str
    n_particles: int
    n_dims: int
    energy: Callable[[Tensor], Tensor]

    @property
    def degrees_of_freedom(self) -> int:
        """The dimensions of the subspace of zero centre of mass, which equal the mean of the virial x . dE/dx."""
        return (self.n_particles - 1) * self.n_dims

    def gradient(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Return dE/dx (B, N, D); it has no component along a common translation."""
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.energy(x).sum(), x)
        return gradient


DW4 = Potential("dw4", 4, 2, double_well)
LJ13 = Potential("lj13", 13, 3, lennard_jones)
