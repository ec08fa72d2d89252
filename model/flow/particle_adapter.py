"""The adapter of a ParticleFlow to the interface of MoleculeFlow, as molecules of one element."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from enflow.model.chem.molecule import Molecule
from enflow.model.chem.particle_systems import ParticleSystem
from enflow.model.config import DequantizerConfig, FlowConfig
from enflow.model.flow.act_norm import ActNorm
from enflow.model.flow.dequantization import Dequantized, Dequantizer
from enflow.model.flow.distributions import AtomCountPrior, CenteredGaussian
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.model.flow.states import DequantizedMolecules

SPACE = 3
"""The number of dimensions of molecules. Further dimensions of a plane system hold zeros."""


class ParticleFlowAdapter(MoleculeFlow):
    """A particle flow as a molecule flow with the same density.

    The pair (seed, index) fixes the same sample. The terms of types and size in a likelihood are zero.

    Args:
        flow: the particle flow.
        name: the name of the model.
        data: the name of the training data.
    """

    def __init__(self, flow: ParticleFlow, name: str = "particles", data: str = "") -> None:
        n_particles, n_dims = flow.config.n_particles, flow.config.n_dims
        self.system = ParticleSystem(name, n_particles, n_dims, data)
        vocabulary = self.system.vocabulary
        super().__init__(FlowConfig(vocabulary.atomic_numbers, vocabulary.max_atoms, flow.config.dynamics))
        self.vocabulary = vocabulary
        self.dynamics = flow.dynamics if n_dims == SPACE else _PaddedDynamics(flow.dynamics, n_dims)
        self.dequantizer = _SingleType(vocabulary.atomic_numbers)
        self.n_atoms = AtomCountPrior.from_counts([0] * n_particles + [1], pseudocount=0.0)
        self.base_positions = _PaddedGaussian(n_dims)
        self.act_norm = ActNorm(0, n_dims)
        nn.init.constant_(self.act_norm.x_log_scale, math.log(flow.config.scale))
        like = next(flow.parameters())
        self.to(like.device, like.dtype).eval()

    def dequantize(
        self,
        molecules: Sequence[Molecule],
        seed: int,
        indices: Sequence[int | str],
        draw: int = 0,
        mirrored: bool = False,
    ) -> DequantizedMolecules:
        """Return particles in flow space; no noise is drawn.

        Raises:
            VocabularyError: another number of particles or of dimensions.
        """
        return super().dequantize([self.system.taken(each) for each in molecules], seed, indices, draw, mirrored)


class _PaddedDynamics(nn.Module):
    """A dynamics of fewer dimensions, padded with zeros to three."""

    def __init__(self, dynamics: nn.Module, n_dims: int) -> None:
        super().__init__()
        self.dynamics, self.n_dims = dynamics, n_dims
        self.equivariant = getattr(dynamics, "equivariant", False)

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        dx, dh = self.dynamics(t, x[..., : self.n_dims], h, mask)
        return F.pad(dx, (0, SPACE - self.n_dims)), dh


class _PaddedGaussian(CenteredGaussian):
    """A centred Gaussian of fewer dimensions, padded with zeros to three."""

    def sample(self, mask: Bool[Tensor, "B N"], generators: Sequence[Generator]) -> Float[Tensor, "B N 3"]:
        """See `CenteredGaussian.sample`."""
        return F.pad(super().sample(mask, generators), (0, SPACE - self.n_dims))


class _SingleType(Dequantizer):
    """A dequantizer of a single type, which has no features."""

    random = False

    def __init__(self, atomic_numbers: Sequence[int]) -> None:
        super().__init__(DequantizerConfig(), atomic_numbers, n_features=0)

    def dequantize(self, atom_types: Tensor, x: Tensor, mask: Tensor, noise: Tensor) -> Dequantized:  # noqa: ARG002
        """See `Dequantizer.dequantize`."""
        return Dequantized(x[..., :0], x.new_zeros(len(x)))

    def quantize(self, h: Tensor, mask: Bool[Tensor, "B N"]) -> Int[Tensor, "B N"]:  # noqa: ARG002
        """See `Dequantizer.quantize`."""
        return torch.zeros_like(mask, dtype=torch.int64)
