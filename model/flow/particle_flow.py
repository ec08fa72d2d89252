"""ParticleFlow: the density of like particles, always the same number of them, to sample from and to score with."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from enflow.model.config import TOLERANCES, ParticleConfig
from enflow.model.errors import SolverError
from enflow.model.flow import divergence, dynamics
from enflow.model.flow.distributions import CenteredGaussian
from enflow.model.flow.geometry import centre
from enflow.model.flow.likelihood import quadrature_tolerance
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.dense_output import Trajectory
from enflow.model.flow.ode.dopri5 import Step, solve_rows
from enflow.model.flow.ode.quadrature import integrate
from enflow.model.flow.ode.solver_state import SolverState, Status

PAIRS = 8192
"""Pairs of particles that travel together: of four particles 512 rows, of thirteen 48."""

TRACE_PAIRS = divergence.PAIRS // 8
"""Pairs of particles in one batch of exact traces."""

PRECISE = TOLERANCES["precise"]

Positions = Float[Tensor, "B N S"]


class ParticleFlow(nn.Module):
    """A continuous normalizing flow over positions alone (Köhler, Klein, Noé 2020; Satorras et al. 2021, section 5.1).

    z ~ N(0, 1) without centre of mass; dx/dt = velocity(t, x) from t = 0 to 1; positions are scale * x. Stepper,
    quadrature and base are those of molecules.

    Args:
        config: everything but the weights.
    """

    def __init__(self, config: ParticleConfig) -> None:
        super().__init__()
        self.config = config
        self.dynamics = dynamics.build(config.dynamics)
        self.base = CenteredGaussian(config.n_dims)

    @property
    def dtype(self) -> torch.dtype:
        """Of its arithmetic."""
        return next(self.dynamics.parameters()).dtype

    @property
    def log_scale(self) -> float:
        """log |det| of the scaling, nats, from data into the flow."""
        return -(self.config.n_particles - 1) * self.config.n_dims * math.log(self.config.scale)

    def draw_latent(self, seed: int, index: int) -> Float[Tensor, "N S"]:
        """The noise of one sample, float64 on the CPU."""
        mask = torch.ones(1, self.config.n_particles, dtype=torch.bool)
        return self.base.sample(mask, [generator(seed, index, "latent")])[0]

    def sample(
        self, n: int, seed: int = 0, rtol: float = PRECISE, atol: float = PRECISE
    ) -> tuple[Positions, Float[Tensor, " B"]]:
        """Samples and their log-densities, nats, each fixed by (seed, its place).

        Raises:
            SolverError: a path did not reach its end.
        """
        x, log_prob = zip(*self.samples(n, seed, rtol, atol), strict=True)
        return torch.cat(x), torch.cat(log_prob)

    def samples(
        self, n: int, seed: int = 0, rtol: float = PRECISE, atol: float = PRECISE
    ) -> Iterator[tuple[Positions, Float[Tensor, " B"]]]:
        """As `sample`, a group at a time."""
        for z, x, ladj in self._travel(self._latents(n, seed), 0.0, 1.0, rtol, atol):
            yield x * self.config.scale, self._log_prob_base(z) + ladj + self.log_scale

    def draw(self, n: int, seed: int = 0, rtol: float = PRECISE, atol: float = PRECISE) -> Positions:
        """The positions that `sample` gives, without their densities, which cost far more.

        Raises:
            SolverError: a path did not reach its end.
        """
        return self.decode(self._latents(n, seed), rtol, atol)

    @torch.no_grad()
    def encode(self, x: Positions, rtol: float = PRECISE, atol: float = PRECISE) -> Positions:
        """The latents of positions, of which `decode` is the inverse.

        Raises:
            SolverError: a path did not reach its end.
        """
        groups = self._groups(self._centred(x) / self.config.scale)
        return torch.cat([self._solved(group, 1.0, 0.0, rtol, atol)[0] for group in groups])

    @torch.no_grad()
    def decode(self, latents: Positions, rtol: float = PRECISE, atol: float = PRECISE) -> Positions:
        """The positions of latents, without centre of mass.

        Raises:
            SolverError: a path did not reach its end.
        """
        ends = [self._solved(group, 0.0, 1.0, rtol, atol)[0] for group in self._groups(latents)]
        return torch.cat(ends) * self.config.scale

    def log_prob(self, x: Positions, rtol: float = PRECISE, atol: float = PRECISE) -> Float[Tensor, " B"]:
        """Log-densities of positions on the subspace of zero centre of mass, by the exact divergence, nats.

        Raises:
            SolverError: a path did not reach its end.
        """
        found = [*self._travel(self._centred(x) / self.config.scale, 1.0, 0.0, rtol, atol)]
        return torch.cat([self._log_prob_base(z) + ladj for _, z, ladj in found]) + self.log_scale

    def _travel(
        self, x: Positions, t0: float, t1: float, rtol: float, atol: float
    ) -> Iterator[tuple[Positions, Positions, Float[Tensor, " B"]]]:
        """Starts, ends, and the divergence from t = 1 to 0 (log |det| of data to base), a group at a time."""
        for start in self._groups(x):
            with torch.no_grad():
                end, trajectory = self._solved(start, t0, t1, rtol, atol)
                tolerance = quadrature_tolerance(min(rtol, atol))
                integral = integrate(trajectory, self._divergence, 1.0, 0.0, tolerance)
            yield start, end, integral.value.to(start)

    def _divergence(self, rows: Tensor, t: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002 - the rows share a velocity
        at_once = max(1, TRACE_PAIRS // self.config.n_particles**2)
        parts = zip(torch.split(t, at_once), torch.split(x, at_once), strict=True)
        return torch.cat([divergence.exact(self.dynamics, s, y, y[..., :0], _everyone(y)) for s, y in parts])

    def _latents(self, n: int, seed: int) -> Positions:
        return torch.stack([self.draw_latent(seed, index) for index in range(n)])

    def _groups(self, x: Positions) -> tuple[Tensor, ...]:
        like = next(self.dynamics.parameters())
        return torch.split(x.to(like), max(1, PAIRS // self.config.n_particles**2))

    def _solved(self, x: Positions, t0: float, t1: float, rtol: float, atol: float) -> tuple[Positions, Trajectory]:
        pieces = []

        def record(step: Step) -> None:
            pieces.append((step.accepted, step.interpolant))

        tolerances = _within(rtol, self.dtype), _within(atol, self.dtype)
        state = solve_rows(self.dynamics, x, x[..., :0], _everyone(x), t0, t1, *tolerances, observe=record)
        _check(state)
        return state.x, Trajectory(pieces)

    def _log_prob_base(self, z: Positions) -> Float[Tensor, " B"]:
        return self.base.log_prob(z, _everyone(z))

    def _centred(self, x: Positions) -> Positions:
        return centre(x, _everyone(x))


def _everyone(x: Positions) -> Bool[Tensor, "B N"]:
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


def _within(tolerance: float, dtype: torch.dtype) -> float:
    """A density asks more of a path than its end does: a tenth, as far as the arithmetic goes."""
    return max(0.1 * tolerance, 10 * torch.finfo(dtype).eps)


def _check(state: SolverState) -> None:
    lost = (state.status != Status.SUCCESS).nonzero().flatten().tolist()
    if lost:
        status = Status(int(state.status[lost[0]])).name
        raise SolverError(f"{len(lost)} of {len(state.status)} paths ended with {status}, expected SUCCESS")
