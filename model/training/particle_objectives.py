"""The objectives of particles: flow matching of the velocity, and the likelihood of the whole flow."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from enflow.model.flow.coupling import assignment, random_rotations, rotate_onto
from enflow.model.flow.dynamics import build
from enflow.model.flow.geometry import centre, full_mask
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.torchdiffeq_solver import AugmentedOptions, solve
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.model.training.config import ParticleTrainConfig
from enflow.model.training.flow_matching import draw_times
from enflow.model.training.max_likelihood import PROBE_KINDS

Positions = NDArray[np.float32]


class ParticleObjective:
    """The part that both objectives of particles share: samples are drawn with replacement and rotated if asked.

    The data are positions (M, N, D) of the system, in its own units.
    """

    def __init__(self, config: ParticleTrainConfig, device: str) -> None:
        self.config, self.device = config, device

    def initialize(self, network: nn.Module, data: Positions) -> None:
        """Do nothing: all parameters of a particle flow are learned."""

    def batches(self, data: Positions, batch_size: int, seed: int, first_step: int) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of the batches from `first_step` on, drawn with replacement."""
        step = first_step
        while True:
            yield np.random.default_rng([seed, step, 0]).integers(len(data), size=batch_size)
            step += 1

    def positions(self, data: Positions, rows: NDArray[np.int64], rng: np.random.Generator) -> Positions:
        """Return the samples of `rows`, centred, in units of the flow, and rotated at random if the run augments."""
        x = data[rows]
        x = ((x - x.mean(1, keepdims=True)) / self.config.flow.scale).astype(np.float32)
        rotated: Positions = x @ random_rotations(len(x), x.shape[-1], rng) if self.config.augment else x
        return rotated

    @torch.no_grad()
    def validate(self, network: Any, drawn: list[Any]) -> dict[str, float]:
        """Return the mean loss of a network on fixed draws."""
        losses = torch.cat([torch.stack(list(self.losses(network, one).values())).sum(0) for one in drawn])
        return {"loss": float(losses.mean())}

    def losses(self, network: Any, drawn: Any) -> dict[str, Tensor]:
        """Return the terms of the loss per sample, (B,) each."""
        raise NotImplementedError


class ParticleFlowMatching(ParticleObjective):
    """Regression of the velocity on noise that is coupled to the samples."""

    def build(self) -> Any:
        """Return a new velocity."""
        return build(self.config.flow.dynamics).float().to(self.device)

    def copy_weights(self, network: nn.Module, flow: ParticleFlow) -> None:
        """Copy the velocity of a trained flow into the network."""
        network.load_state_dict(flow.dynamics.state_dict())

    def draw(
        self, network: Any, data: Positions, rows: NDArray[np.int64], seed: int, step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw coupled noise x0 and samples x1, both (B, N, D), and times (B,)."""
        rng = np.random.default_rng([seed, step, 1])
        x1 = self.positions(data, rows, rng)
        x0 = couple_particles(x1, bool(network.equivariant) or self.config.augment, rng)
        t = draw_times(len(rows), self.config.matching, rng)
        return torch.from_numpy(x0).to(self.device), torch.from_numpy(x1).to(self.device), t.to(self.device)

    def losses(self, network: Any, drawn: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the squared error of the velocity, (B,)."""
        return {"velocity": velocity_error(network, *drawn)}

    def flow(self, network: nn.Module) -> ParticleFlow:
        """Return the flow with this velocity."""
        flow = ParticleFlow(self.config.flow)
        flow.dynamics.load_state_dict(network.state_dict())
        return flow


class ParticleLikelihood(ParticleObjective):
    """Maximum likelihood by one ODE solve per step, as in the paper."""

    def build(self) -> ParticleFlow:
        """Return a new flow."""
        return ParticleFlow(self.config.flow).float().to(self.device)

    def copy_weights(self, network: ParticleFlow, flow: ParticleFlow) -> None:
        """Copy the parameters of a trained flow into the network."""
        network.load_state_dict(flow.state_dict())

    def draw(
        self,
        network: ParticleFlow,  # noqa: ARG002
        data: Positions,
        rows: NDArray[np.int64],
        seed: int,
        step: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Draw samples (B, N, D) and the probes of the divergence; no probes for the exact trace."""
        x = torch.from_numpy(self.positions(data, rows, np.random.default_rng([seed, step, 1])))
        if self.config.likelihood.probe == "exact":
            return x.to(self.device), None
        sources = [generator(seed, step, f"train:{row}") for row in range(len(rows))]
        probe = PROBE_KINDS[self.config.likelihood.probe](sources, full_mask(x), 0, x.shape[-1])
        return x.to(self.device), probe.to(x).to(self.device)

    def losses(self, network: ParticleFlow, drawn: tuple[Tensor, Tensor | None]) -> dict[str, Tensor]:
        """Return the negative log-likelihood in units of the flow, nats, and the weighted regularisers."""
        config, (x, probe) = self.config.likelihood, drawn
        mask = full_mask(x)
        adjoint = list(network.parameters()) if config.adjoint else None
        options = AugmentedOptions(config.tolerance, adjoint, config.regularised)
        end = solve(network.dynamics, x, x[..., :0], mask, (1.0, 0.0), probe, options)
        nll = -(end.ladj + network.base.log_prob(end.x, mask))
        regularisers = {"kinetic": config.kinetic * end.kinetic, "jacobian": config.jacobian * end.frobenius}
        return {"nll": nll, **(regularisers if config.regularised else {})}

    def flow(self, network: ParticleFlow) -> ParticleFlow:
        """Return the network itself."""
        return network


def couple_particles(x1: Positions, rotate: bool, rng: np.random.Generator) -> Positions:
    """Draw noise for samples and bring it near them by optimal transport.

    A rotation keeps the distribution of the noise only if the velocity is equivariant, or if every orientation of a
    sample is equally likely.

    Args:
        x1: (B, N, D) samples of zero mean.
        rotate: rotate or reflect the noise onto the sample after its particles are reordered.
        rng: source of the noise.
    """
    x0 = rng.standard_normal(x1.shape, dtype=np.float32)
    x0 -= x0.mean(1, keepdims=True)
    x0 = np.take_along_axis(x0, assignment(x0, x1), 1)
    return rotate_onto(x0, x1) if rotate else x0


def velocity_error(velocity: Callable[..., tuple[Tensor, Tensor]], x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Return the squared error (B,) of the velocity on the straight path from x0 to x1 at times t."""
    mask = full_mask(x0)
    x = torch.lerp(x0, x1, t[:, None, None])
    dx, _ = velocity(t, x, x[..., :0], mask)
    return (dx - centre(x1 - x0, mask)).square().sum((1, 2))
