"""The likelihood of a molecule: the divergence along its path, and what people are told, with its parts and errors.

A log-density asks more of a path than a sample does: from data to base the flow stretches what a molecule has between
its atoms by a factor of 25 and errors with it. The path costs little beside the divergence, so it is solved 3000 times
as tightly as it is asked for. Of four molecules of 7 to 12 atoms (bundled weights, against paths at 1e-8) the error was
up to 7.4 nats at 1e-4, 2.5 at 1e-5, 0.21 at 1e-6 and 0.01 at 1e-7; in float32 it was the same to 0.002.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from enflow.model.flow import divergence
from enflow.model.flow.ode.dense_output import Interpolant, Trajectory
from enflow.model.flow.ode.dopri5 import Status
from enflow.model.flow.ode.quadrature import Integral, integrate
from enflow.model.flow.velocity import Velocity, unpack

HUTCHINSON_PAIRS = 1 << 14
"""Pairs of atoms in one vector-Jacobian product, whose every intermediate value is kept."""


def path_tolerance(tolerance: float) -> float:
    """rtol and atol of the path for a likelihood to a tolerance."""
    return max(tolerance / 3000, 1e-12)


def quadrature_tolerance(tolerance: float, exact: bool) -> float:
    """The estimated error, nats, that the quadrature may leave: 0.3 at 1e-3 and 0.02 at 1e-5 of the exact trace.

    An estimated trace is four times less worth it: one probe's own error is above 20 nats for a molecule of QM9.
    """
    return float((0.3 if exact else 1.2) * (tolerance / 1e-3) ** 0.6)


def divergence_along(
    velocity: Velocity,
    path: Sequence[Interpolant],
    probes: Float[Tensor, "P N D"] | None,
    tolerance: float,
    dtype: torch.dtype | None = None,
) -> Integral:
    """The integral of the divergence from data (t = 1) to base (0), one value per probe; without probes the exact one.

    Args:
        velocity: whose path it is.
        path: the accepted steps of one molecule.
        probes: for Hutchinson's estimate; None = the exact trace.
        tolerance: of the quadrature, nats.
        dtype: in which the velocity computes; None = that of the path.
    """
    copies = 1 if probes is None else len(probes)
    accepted = torch.ones(copies, dtype=torch.bool, device=path[0].t0.device)
    trajectory = Trajectory([(accepted, Interpolant(*(f.expand(copies, *f.shape[1:]) for f in p))) for p in path])
    return divergence_of(velocity, trajectory, probes, tolerance, dtype=dtype)


def divergence_of(
    velocity: Velocity,
    trajectory: Trajectory,
    probes: Float[Tensor, "B N D"] | None,
    tolerance: float,
    n_dims: int = 3,
    dtype: torch.dtype | None = None,
) -> Integral:
    """The integrals of the divergence from data (t = 1) to base (0) along paths of one size; each row has its probe.

    Args:
        velocity, probes, tolerance, dtype: as for `divergence_along`.
        trajectory: the paths, in either direction.
        n_dims: dimensions of space.
    """
    arithmetic = dtype or trajectory.pieces.y0.dtype
    n_atoms = trajectory.pieces.y0.shape[2]
    pairs = HUTCHINSON_PAIRS if probes is not None else divergence.PAIRS // 8
    at_once = max(1, pairs // n_atoms**2)

    def integrand(rows: Tensor, t: Tensor, y: Tensor) -> Tensor:
        parts = (slice(start, start + at_once) for start in range(0, len(t), at_once))
        t, y = t.to(arithmetic), y.to(arithmetic)
        noise = None if probes is None else probes[rows].to(arithmetic)
        return torch.cat(
            [_divergence(velocity, t[i], y[i], None if noise is None else noise[i], n_dims) for i in parts]
        )

    return integrate(trajectory, integrand, 1.0, 0.0, tolerance)


def _divergence(velocity: Velocity, t: Tensor, y: Tensor, probe: Tensor | None, n_dims: int) -> Tensor:
    x, h = unpack(y, n_dims)
    mask = torch.ones(y.shape[:2], dtype=torch.bool, device=y.device)
    if probe is None:
        return divergence.exact(velocity, t, x, h, mask)
    return divergence.hutchinson(velocity, t, x, h, mask, probe)


class Draw(NamedTuple):
    """One draw of the dequantizer, log-densities in nats.

    Attributes:
        base: log p(z), at the end of the path.
        divergence: log |det| of the path and of ActNorm; one value per probe, or the exact one.
        log_q: of the dequantized features.
        quadrature_error: estimated, of each of `divergence`.
        nfe: evaluations of the velocity along the path.
        nodes: evaluations of the divergence.
        status: of the path.
        path: (t, log p_t of the state there), where it was asked for; of several probes the mean.
        atoms: of -`base`, what each atom's own part of the latent takes.
    """

    base: float
    divergence: Sequence[float]
    log_q: float
    quadrature_error: float
    nfe: int
    nodes: int
    status: Status
    path: Sequence[tuple[float, float]] = ()
    atoms: Sequence[float] = ()

    @property
    def bound(self) -> float:
        """log p - log q as this draw alone has it, without p(N)."""
        return self.base + float(np.mean(self.divergence)) - self.log_q


@dataclass(frozen=True)
class Likelihood:
    """A lower bound on a molecule's log-likelihood, nats; NaN where the path did not reach its end.

    log p >= E_q[log mean_k p(x, h_k) / q(h_k | types, x)] + log p(N), with K draws of the dequantizer (K = 1: the usual
    bound; more tighten it: Burda, Grosse and Salakhutdinov 2016). With an estimated divergence the mean is outside.

    Attributes:
        log_prob: the bound; its negative is `nll`.
        parts: what adds up to `nll`: "base", "divergence" (with ActNorm's), "dequantizer", "n_atoms". Of several draws
            the means by weight, and the gain of several over one is the dequantizer's.
        std_error: Monte Carlo error over draws and probes; None where neither can tell it.
        quadrature_error: estimated error of the divergence's integral.
        nfe: evaluations of the velocity along the paths.
        nodes: evaluations of the divergence.
        status: of the path that fared worst.
        gain: of `log_prob` over the mean of the draws' own bounds; 0 for one draw or an estimated divergence.
    """

    log_prob: float
    parts: dict[str, float]
    std_error: float | None
    quadrature_error: float
    nfe: int
    nodes: int
    status: Status
    gain: float = 0.0

    @property
    def nll(self) -> float:
        """The negative log-likelihood, or rather its upper bound."""
        return -self.log_prob


def combine(draws: Sequence[Draw], log_n_atoms: float, exact: bool) -> Likelihood:
    """The bound that some draws give together.

    Args:
        draws: of one molecule.
        log_n_atoms: log p(N), nats.
        exact: the divergence is exact. An estimated one would enter the mean of the weights by its exponential, which
            is no bound any more: then the bound is the mean of the draws' own.
    """
    base, log_q = np.array([draw.base for draw in draws]), np.array([draw.log_q for draw in draws])
    divergence = np.array([np.mean(draw.divergence) for draw in draws])
    status = max(draw.status for draw in draws)
    bounds = base + divergence - log_q if status == Status.SUCCESS else np.full(len(draws), np.nan)
    share = np.exp(bounds - bounds.max()) if exact else np.ones(len(draws))
    bound = float(bounds.max() + np.log(share.mean())) if exact else float(bounds.mean())
    share /= share.sum()
    parts = {"base": -float(share @ base), "divergence": -float(share @ divergence)}
    parts |= {"dequantizer": -bound - sum(parts.values()), "n_atoms": -log_n_atoms}
    return Likelihood(
        log_prob=bound + log_n_atoms,
        parts=parts,
        std_error=_std_error(draws, bounds, share, exact),
        quadrature_error=float(share @ [draw.quadrature_error for draw in draws]),
        nfe=sum(draw.nfe for draw in draws),
        nodes=sum(draw.nodes for draw in draws),
        status=status,
        gain=bound - float(bounds.mean()),
    )


def _std_error(draws: Sequence[Draw], bounds: np.ndarray, share: np.ndarray, exact: bool) -> float | None:
    count = len(draws)
    if count > 1 and exact:  # to first order, of the logarithm of a mean
        return float(np.sqrt(count / (count - 1) * ((share - 1 / count) ** 2).sum()))
    values = bounds if count > 1 else draws[0].divergence  # what differs between draws holds the probes' part too
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
