"""Training by maximum likelihood: the negative log-likelihood of a batch with what it costs to get there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Generator, Tensor

from enflow.model.batch import MoleculeBatch
from enflow.model.errors import ConfigError
from enflow.model.flow.divergence import gaussian, rademacher
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.torchdiffeq_solver import solve

PROBES = {"rademacher": rademacher, "gaussian": gaussian}


@dataclass(frozen=True)
class LikelihoodConfig:
    """How the likelihood is estimated and regularised while training.

    Attributes:
        probe: noise of Hutchinson's estimate, "rademacher" or "gaussian"; "exact" for the exact trace.
        tolerance: rtol = atol of the batch's solve.
        kinetic, jacobian: weights of the path's kinetic energy and of its Jacobian's squared norm (Finlay et al. 2020).
        adjoint: gradients by a second solve backwards, in constant memory, rather than through the solver's steps.
    """

    probe: str = "rademacher"
    tolerance: float = 1e-4
    kinetic: float = 1e-3
    jacobian: float = 0.0
    adjoint: bool = True

    def __post_init__(self) -> None:
        if self.probe not in (*PROBES, "exact"):
            raise ConfigError(f'probe is {self.probe!r}; expected "rademacher", "gaussian" or "exact"')
        if self.tolerance <= 0:
            raise ConfigError(f"tolerance is {self.tolerance}; expected more than 0")

    @property
    def regularised(self) -> bool:
        """Something beside the likelihood has a weight."""
        return bool(self.kinetic or self.jacobian)


class Noise(NamedTuple):
    """All that is random in one evaluation, from one generator per molecule; float64 on the CPU."""

    dequantizer: Float[Tensor, "B N F"]
    probe: Float[Tensor, "B N D"] | None


class Terms(NamedTuple):
    """Per molecule: the bound on -log p in nats, the path's integral of |v|^2, and that of |J^T e|^2."""

    nll: Float[Tensor, " B"]
    kinetic: Float[Tensor, " B"]
    jacobian: Float[Tensor, " B"]


def draw_noise(
    flow: MoleculeFlow, batch: MoleculeBatch, generators: Sequence[Generator], config: LikelihoodConfig
) -> Noise:
    """Noise of the dequantizer, then of the probe."""
    dequantizer = flow.dequantizer.sample_noise(generators, batch.mask)
    if config.probe == "exact":
        return Noise(dequantizer, None)
    return Noise(dequantizer, PROBES[config.probe](generators, batch.mask, flow.dequantizer.n_features))


def likelihood_terms(flow: MoleculeFlow, batch: MoleculeBatch, noise: Noise, config: LikelihoodConfig) -> Terms:
    """The bound on the negative log-likelihood of each molecule and its regularisers; differentiable.

    -log p <= -(log p(z) + the integral of the divergence from data to base + ActNorm's ladj - log q + log p(N)).
    """
    x, mask = batch.positions, batch.mask
    h, log_q = flow.dequantizer.dequantize(batch.atom_types, x, mask, noise.dequantizer)
    log_prob = flow.n_atoms.log_prob(mask.sum(-1)) - log_q
    if flow.act_norm is not None:
        x, h = flow.act_norm(x, h, mask)
        log_prob = log_prob + flow.act_norm.ladj(mask)
    probe = None if noise.probe is None else noise.probe.to(x)
    adjoint = list(flow.dynamics.parameters()) if config.adjoint else None
    tolerance = config.tolerance
    end = solve(flow.velocity, x, h, mask, 1.0, 0.0, probe, tolerance, tolerance, adjoint, config.regularised)
    log_prob = log_prob + end.ladj + flow.log_prob_base(end.x, end.h, mask)
    return Terms(-log_prob, end.kinetic, end.frobenius)
