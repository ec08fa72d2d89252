"""Maximum likelihood: the negative log-likelihood of a batch of molecules and the regularisers of its path."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Generator, Tensor

from enflow.model.batch import MoleculeBatch
from enflow.model.config import STRICT, config_errors
from enflow.model.flow.divergence import gaussian, rademacher
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.torchdiffeq_solver import AugmentedOptions, solve

PROBE_KINDS = {"rademacher": rademacher, "gaussian": gaussian}


@config_errors
@dataclass(frozen=True, config=STRICT)
class LikelihoodConfig:
    """Settings of the likelihood's estimate and of its regularisers while training.

    Attributes:
        probe: noise of Hutchinson's estimate of the divergence, "rademacher" or "gaussian"; "exact" = the exact trace.
        tolerance: rtol and atol of the solver, for the batch as a whole.
        kinetic: weight of the kinetic energy of the path (Finlay et al. 2020).
        jacobian: weight of the squared norm of the Jacobian along the path (Finlay et al. 2020).
        adjoint: True = gradients by a second solve backwards in time, in constant memory; False = gradients through the
            steps of the solver.
    """

    probe: str = "rademacher"
    tolerance: PositiveFloat = 1e-4
    kinetic: NonNegativeFloat = 1e-3
    jacobian: NonNegativeFloat = 0.0
    adjoint: bool = True

    def __post_init__(self) -> None:
        if self.probe not in (*PROBE_KINDS, "exact"):
            raise ValueError(f'probe is {self.probe!r}; expected "rademacher", "gaussian" or "exact"')

    @property
    def regularised(self) -> bool:
        """True if a regulariser has a weight."""
        return bool(self.kinetic or self.jacobian)


class Noise(NamedTuple):
    """The noise of one evaluation, drawn from one generator per molecule; float64 on the CPU."""

    dequantizer: Float[Tensor, "B N F"]
    probe: Float[Tensor, "B N D"] | None


class LikelihoodTerms(NamedTuple):
    """Terms per molecule: the bound on -log p in nats, the integrals of |v|^2 and of |J^T e|^2 along the path."""

    nll: Float[Tensor, " B"]
    kinetic: Float[Tensor, " B"]
    jacobian: Float[Tensor, " B"]


def draw_noise(
    flow: MoleculeFlow, batch: MoleculeBatch, generators: Sequence[Generator], config: LikelihoodConfig
) -> Noise:
    """Draw the noise of the dequantizer, then that of the probe."""
    dequantizer = flow.dequantizer.sample_noise(generators, batch.mask)
    if config.probe == "exact":
        return Noise(dequantizer, None)
    return Noise(dequantizer, PROBE_KINDS[config.probe](generators, batch.mask, flow.dequantizer.n_features))


def likelihood_terms(
    flow: MoleculeFlow, batch: MoleculeBatch, noise: Noise, config: LikelihoodConfig
) -> LikelihoodTerms:
    """Return the bound on the negative log-likelihood of each molecule and its regularisers; differentiable.

    -log p(x) <= -(log p(z) + integral of the divergence from data to base + ladj of ActNorm - log q + log p(N))
    (Satorras et al. 2021).

    Args:
        flow: the flow.
        batch: the molecules.
        noise: the noise of `draw_noise`.
        config: settings of the estimate.
    """
    x, mask = batch.positions, batch.mask
    h, log_q = flow.dequantizer.dequantize(batch.atom_types, x, mask, noise.dequantizer)
    log_prob = flow.n_atoms.log_prob(mask.sum(-1)) - log_q
    if flow.act_norm is not None:
        x, h = flow.act_norm(x, h, mask)
        log_prob = log_prob + flow.act_norm.ladj(mask)
    probe = None if noise.probe is None else noise.probe.to(x)
    adjoint = list(flow.dynamics.parameters()) if config.adjoint else None
    options = AugmentedOptions(config.tolerance, adjoint, config.regularised)
    end = solve(flow.velocity, x, h, mask, (1.0, 0.0), probe, options)
    log_prob = log_prob + end.ladj + flow.log_prob_base(end.x, end.h, mask)
    return LikelihoodTerms(-log_prob, end.kinetic, end.frobenius)
