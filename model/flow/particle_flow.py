"""ParticleFlow: a normalizing flow over a fixed number of identical particles, to sample from and to score with."""

import math
import warnings
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from enflow.model.config import TOLERANCES, ParticleConfig, check_tolerances
from enflow.model.errors import QuadratureWarning, SolverError
from enflow.model.flow import divergence, dynamics
from enflow.model.flow.arguments import checked_count, checked_seed
from enflow.model.flow.distributions import CenteredGaussian
from enflow.model.flow.geometry import centre, full_mask
from enflow.model.flow.likelihood import EXACT_PAIRS, quadrature_tolerance
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.dense_output import Trajectory
from enflow.model.flow.ode.methods import DORMAND_PRINCE, solve_rows
from enflow.model.flow.ode.quadrature import integrate
from enflow.model.flow.ode.solver_state import SolverState, Status
from enflow.model.flow.ode.step_control import Step

PARTICLE_PAIRS = 8192
"""The number of pairs of particles in one batch: 512 rows of four particles, 48 rows of thirteen."""

PRECISE = TOLERANCES["precise"]

Positions = Float[Tensor, "B N S"]


class ParticleFlow(nn.Module):
    """A continuous normalizing flow over positions alone (Köhler, Klein, Noé 2020; Satorras et al. 2021, section 5.1).

    z ~ N(0, 1) without centre of mass; dx/dt = velocity(t, x) from t = 0 to 1; positions are scale * x. Solver,
    quadrature and base are the same as for molecules.

    Args:
        config: the architecture.
    """

    def __init__(self, config: ParticleConfig) -> None:
        super().__init__()
        self.config = config
        self.dynamics = dynamics.build(config.dynamics)
        self.base = CenteredGaussian(config.n_dims)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.dynamics.parameters()).dtype

    @property
    def log_scale(self) -> float:
        """The log |det| of the scaling from data to flow space, nats."""
        return -(self.config.n_particles - 1) * self.config.n_dims * math.log(self.config.scale)

    def draw_latent(self, seed: int, index: int) -> Float[Tensor, "N S"]:
        """Return the latent of sample (seed, index), float64 on the CPU."""
        mask = torch.ones(1, self.config.n_particles, dtype=torch.bool)
        return self.base.sample(mask, [generator(seed, index, "latent")])[0]

    def sample(
        self, n: int, seed: int = 0, rtol: float = PRECISE, atol: float = PRECISE
    ) -> tuple[Positions, Float[Tensor, " B"]]:
        """Return samples and their log-densities, nats; (seed, place) fixes each of them.

        Args:
            n: the number of samples.
            seed: the seed of all noise.
            rtol, atol: relative and absolute tolerance of the solver.


        Raises:
            SolverError: a path did not reach its end.
        """
        x, log_prob = zip(*self.samples(n, seed, rtol, atol), strict=True)
        return torch.cat(x), torch.cat(log_prob)

    def samples(
        self, n: int, seed: int = 0, rtol: float = PRECISE, atol: float = PRECISE
    ) -> Iterator[tuple[Positions, Float[Tensor, " B"]]]:
        """Yield the samples and log-densities of `sample`, a batch at a time."""
        for z, x, ladj in self._solve_with_ladj(self._latents(n, seed), 0.0, 1.0, rtol, atol):
            yield x * self.config.scale, self._log_prob_base(z) + ladj + self.log_scale

    def sample_positions(self, n: int, seed: int = 0, rtol: float = PRECISE, atol: float = PRECISE) -> Positions:
        """Return the positions of `sample` without the log-densities, which cost far more.

        Raises:
            SolverError: a path did not reach its end.
        """
        return self.decode(self._latents(n, seed), rtol, atol)

    @torch.no_grad()
    def encode(self, x: Positions, rtol: float = PRECISE, atol: float = PRECISE) -> Positions:
        """Return the latents of positions; `decode` is the inverse.

        Raises:
            SolverError: a path did not reach its end.
        """
        batches = self._batches(self._centred(x) / self.config.scale)
        return torch.cat([self._solve(batch, 1.0, 0.0, rtol, atol)[0] for batch in batches])

    @torch.no_grad()
    def decode(self, latents: Positions, rtol: float = PRECISE, atol: float = PRECISE) -> Positions:
        """Return the positions of latents, with zero centre of mass.

        Raises:
            SolverError: a path did not reach its end.
        """
        ends = [self._solve(batch, 0.0, 1.0, rtol, atol)[0] for batch in self._batches(latents)]
        return torch.cat(ends) * self.config.scale

    def log_prob(self, x: Positions, rtol: float = PRECISE, atol: float = PRECISE) -> Float[Tensor, " B"]:
        """Return log-densities on the subspace of zero centre of mass by the exact divergence, nats.

        Raises:
            SolverError: a path did not reach its end.
        """
        found = [*self._solve_with_ladj(self._centred(x) / self.config.scale, 1.0, 0.0, rtol, atol)]
        return torch.cat([self._log_prob_base(z) + ladj for _, z, ladj in found]) + self.log_scale

    def _solve_with_ladj(
        self, x: Positions, t0: float, t1: float, rtol: float, atol: float
    ) -> Iterator[tuple[Positions, Positions, Float[Tensor, " B"]]]:
        """Yield (start, end, log |det| of the map from data to base) of one batch at a time."""
        for start in self._batches(x):
            with torch.no_grad():
                end, trajectory = self._solve(start, t0, t1, rtol, atol)
                tolerance = quadrature_tolerance(min(rtol, atol))
                integral = integrate(trajectory, self._divergence, 1.0, 0.0, tolerance)
            if not (error := float(integral.error.max())) <= tolerance:
                found = f"found an error of {error:.2g} nats in a log-density, expected at most {tolerance:.2g}"
                warnings.warn(f"{found}; the paths need a smaller tolerance", QuadratureWarning, stacklevel=3)
            yield start, end, integral.value.to(start)

    def _divergence(self, rows: Tensor, t: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002 - the rows share a velocity
        batch_size = max(1, EXACT_PAIRS // self.config.n_particles**2)
        parts = zip(torch.split(t, batch_size), torch.split(x, batch_size), strict=True)
        return torch.cat([divergence.exact(self.dynamics, s, y, y[..., :0], full_mask(y)) for s, y in parts])

    def _latents(self, n: int, seed: int) -> Positions:
        seed = checked_seed(seed)
        return torch.stack([self.draw_latent(seed, index) for index in range(checked_count(n))])

    def _batches(self, x: Positions) -> tuple[Tensor, ...]:
        like = next(self.dynamics.parameters())
        return torch.split(x.to(like), max(1, PARTICLE_PAIRS // self.config.n_particles**2))

    def _solve(self, x: Positions, t0: float, t1: float, rtol: float, atol: float) -> tuple[Positions, Trajectory]:
        attempts = []

        def record(step: Step) -> None:
            attempts.append((step.accepted, step.interpolant))

        check_tolerances(rtol, atol)
        tolerances = _path_tolerance(rtol, self.dtype), _path_tolerance(atol, self.dtype)
        no_features, mask = x[..., :0], full_mask(x)
        state = solve_rows(DORMAND_PRINCE, self.dynamics, x, no_features, mask, (t0, t1), tolerances, record)
        _check_success(state)
        return state.x, Trajectory(attempts)

    def _log_prob_base(self, z: Positions) -> Float[Tensor, " B"]:
        return self.base.log_prob(z, full_mask(z))

    def _centred(self, x: Positions) -> Positions:
        return centre(x, full_mask(x))


def _path_tolerance(tolerance: float, dtype: torch.dtype) -> float:
    """Return the tolerance of a path: a tenth, since a density needs more accuracy, but not below the precision."""
    return max(0.1 * tolerance, 10 * torch.finfo(dtype).eps)


def _check_success(state: SolverState) -> None:
    failed = (state.status != Status.SUCCESS).nonzero().flatten().tolist()
    if failed:
        status = Status(int(state.status[failed[0]])).name
        raise SolverError(f"{len(failed)} of {len(state.status)} paths ended with {status}, expected SUCCESS")
