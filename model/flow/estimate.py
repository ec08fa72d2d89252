"""The estimate of a molecule's log-likelihood that some draws of its dequantizer give together, with its error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from enflow.model.flow.estimator_options import EstimatorOptions
from enflow.model.flow.ode.solver_state import Status

PRIOR_SCALE, PRIOR_FREEDOM = 0.15, 4.0
"""The prior of the dequantizer's standard deviation: half a Student t distribution of this scale, nats per atom, and
these degrees of freedom. For 12 test molecules of 18 atoms the variance of a mirrored pair was 5 nats^2 on average and
26 at most, where the prior's mean is 3 (bundled QM9 weights). One degree of freedom doubled the number of draws."""

MIRRORED = 0.45
"""The standard deviation of the mean of a mirrored pair of draws, relative to that of one draw; independent draws have
0.71. It differs between molecules; a typical value for the bundled QM9 weights."""

GRID = np.geomspace(1e-2, 1e2, 160)
"""Standard deviations, nats, over which the posterior is summed."""


class Draw(NamedTuple):
    """One draw of the dequantizer, log-densities in nats.

    Attributes:
        base: log p(z) at the end of the path.
        divergence: log |det| of the path and of ActNorm.
        log_q: log q of the dequantized features.
        variance: of `divergence` over probes and times; 0 where it is exact.
        quadrature_error: estimated error of an exact divergence's integral.
        nfe: evaluations of the velocity along the path.
        nodes: evaluations of the divergence.
        status: of the path.
        path: the points (t, log p_t of the state at t).
        atoms: each atom's own part of -`base`.
        pair: the number of the mirrored pair that the draw belongs to; None = independent of all other draws.
    """

    base: float
    divergence: float
    log_q: float
    variance: float = 0.0
    quadrature_error: float = 0.0
    nfe: int = 0
    nodes: int = 0
    status: Status = Status.SUCCESS
    path: Sequence[tuple[float, float]] = ()
    atoms: Sequence[float] = ()
    pair: int | None = None

    @property
    def bound(self) -> float:
        """The bound log p(x, h) - log q(h) of this draw alone, without p(N)."""
        return self.base + self.divergence - self.log_q


@dataclass(frozen=True)
class Likelihood:
    """An estimate of a lower bound on a molecule's log-likelihood, nats; NaN where a path failed.

    log p >= E_q[log p(x, h) - log q(h | types, x)] + log p(N), by the mean over draws h of the dequantizer.

    Attributes:
        log_prob: the estimate; its negative is `nll`.
        parts: the terms of `nll`, means over draws: "base", "divergence" (with ActNorm's), "dequantizer", "n_atoms".
        std_error: standard error over probes, times and draws; None for one draw of a random dequantizer.
        quadrature_error: estimated error of the integral of an exact divergence.
        nfe: evaluations of the velocity along the paths.
        nodes: evaluations of the divergence.
        status: of the worst path.
        draws: number of draws.
        importance_gain: log mean exp of the draws' bounds less their mean, which is how much importance weights
            tighten the bound (Burda, Grosse and Salakhutdinov 2016); it is in no other attribute. 0 for an estimated
            divergence, whose noise may not stand in an exponent.
    """

    log_prob: float
    parts: dict[str, float]
    std_error: float | None
    quadrature_error: float
    nfe: int
    nodes: int
    status: Status
    draws: int = 1
    importance_gain: float = 0.0

    @property
    def nll(self) -> float:
        """The negative log-likelihood, or rather the estimate of an upper bound on it."""
        return -self.log_prob


def combine(draws: Sequence[Draw], n_atoms: int, log_n_atoms: float, exact: bool, random: bool = True) -> Likelihood:
    """Return the estimate that the draws of one molecule give together.

    Args:
        draws: independent draws.
        n_atoms: atoms of the molecule, N.
        log_n_atoms: log p(N), nats.
        exact: the divergence is exact.
        random: the dequantizer draws noise; otherwise draws differ by their probes alone.
    """
    status = max(draw.status for draw in draws)
    reached = status == Status.SUCCESS
    bounds = np.array([draw.bound if reached else math.nan for draw in draws])
    terms = np.array([(draw.base, draw.divergence, -draw.log_q) for draw in draws]).mean(0)
    terms = terms if reached else np.full_like(terms, math.nan)
    parts = dict(zip(("base", "divergence", "dequantizer"), (-terms).tolist(), strict=True))
    return Likelihood(
        log_prob=float(bounds.mean()) + log_n_atoms,
        parts=parts | {"n_atoms": -log_n_atoms},
        std_error=_std_error(draws, n_atoms, random) if reached else None,
        quadrature_error=float(np.mean([draw.quadrature_error for draw in draws])),
        nfe=sum(draw.nfe for draw in draws),
        nodes=sum(draw.nodes for draw in draws),
        status=status,
        draws=len(draws),
        importance_gain=_importance_gain(bounds) if exact and reached else 0.0,
    )


def _importance_gain(bounds: Float64[np.ndarray, " R"]) -> float:
    return float(np.logaddexp.reduce(bounds) - math.log(len(bounds)) - bounds.mean())


def further_draws(draws: Sequence[Draw], n_atoms: int, options: EstimatorOptions, random: bool = True) -> int:
    """Return how many more draws a molecule needs for its target error; 0 = it is finished.

    At most as many again as there are, since the error is itself an estimate, and none beyond the budget.

    Args:
        draws: the draws so far.
        n_atoms: atoms of the molecule, N.
        options: the target error and the budget.
        random: the dequantizer draws noise.
    """
    room = options.max_draws - len(draws)
    if room <= 0 or any(draw.status != Status.SUCCESS for draw in draws):
        return 0
    error = _std_error(draws, n_atoms, random)
    if error is None or not error > options.target_error:
        return 0
    wanted = max(math.ceil(len(draws) * (error / options.target_error) ** 2) - len(draws), 1)
    return min(wanted + wanted % 2 if options.paired else wanted, len(draws), room)


def _std_error(draws: Sequence[Draw], n_atoms: int, random: bool) -> float | None:
    probes = float(np.mean([draw.variance for draw in draws]))
    if not random:
        return math.sqrt(probes / len(draws))
    means = _independent_means(draws)
    if len(means) == 1:
        return None
    size = len(draws) / len(means)
    scale = PRIOR_SCALE * n_atoms * (1.0 if size == 1 else MIRRORED)
    return math.sqrt((_dequantizer_variance(means, probes / size, scale) + probes / size) / len(means))


def _independent_means(draws: Sequence[Draw]) -> Float64[np.ndarray, " R"]:
    """Return the bound of each independent draw and the mean of each mirrored pair."""
    bounds: dict[tuple[str, int], list[float]] = {}
    for number, draw in enumerate(draws):
        unit = ("draw", number) if draw.pair is None else ("pair", draw.pair)
        bounds.setdefault(unit, []).append(draw.bound)
    return np.array([np.mean(each) for each in bounds.values()])


def _dequantizer_variance(bounds: Float64[np.ndarray, " R"], probes: float, scale: float) -> float:
    """Return the posterior mean of the variance between draws, beside the known variance of their probes.

    The draws b_r ~ N(mu, tau^2 + probes), with a flat prior for mu and half a Student t for tau (Gelman 2006). With few
    draws the sample variance alone is often far too small, and draws would stop where they agree by chance.
    """
    squares = float(((bounds - bounds.mean()) ** 2).sum())
    total = GRID**2 + probes
    log_weight = -0.5 * ((len(bounds) - 1) * np.log(total) + squares / total) + np.log(GRID)
    log_weight -= 0.5 * (PRIOR_FREEDOM + 1.0) * np.log1p((GRID / scale) ** 2 / PRIOR_FREEDOM)
    weight = np.exp(log_weight - log_weight.max())
    return float((weight @ GRID**2) / weight.sum())
