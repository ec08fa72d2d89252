"""Annealed importance sampling (Neal 2001): the normalising constant of a potential, and samples of it.

Walkers start from a Gaussian of the system's spread, whose normalising constant Z_0 is known. The energy changes along
E_b = (1 - b) E_0 + b E with b from 0 to 1, with one step of Hamiltonian Monte Carlo at each value of b. The mean of the
weights exp(-sum (b' - b)(E - E_0)) is Z / Z_0 for every schedule; the schedule only changes its error. The reverse
annealing, from samples to the Gaussian, gives an independent estimate of the same ratio.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Generator, Tensor

from enflow.model.progress import ProgressCallback
from enflow.model.training.mcmc.hmc import centred_normal, chain_state, hmc_step
from enflow.model.training.mcmc.potentials import Potential

PILOTS = 256
"""Number of walkers of the pilot run, which adapts the step sizes of the main run."""
TARGET_ACCEPTANCE = 0.75
"""Acceptance to which the pilot run adapts."""


@dataclass(frozen=True)
class AnnealingPlan:
    """The schedule of an annealing.

    Attributes:
        walkers: number of walkers of the main run.
        temperatures: number of steps of b.
        power: exponent of b = s^power for evenly spaced s from 0 to 1; a hard core needs a high one.
        leaps: number of leapfrog steps at each value of b.
        spread: standard deviation of the Gaussian per dimension.
    """

    walkers: int
    temperatures: int
    power: float
    leaps: int
    spread: float

    @property
    def ladder(self) -> list[float]:
        """The values of b."""
        return [(k / self.temperatures) ** self.power for k in range(self.temperatures + 1)]


@dataclass(frozen=True)
class AnnealingResult:
    """The estimate of log Z of every walker, and the final positions."""

    log_weights: Float[Tensor, " W"]
    x: Float[Tensor, "W N D"]

    @property
    def log_z(self) -> float:
        """The log of the integral of exp(-E) over the subspace of zero centre of mass, nats."""
        return float(torch.logsumexp(self.log_weights, 0)) - math.log(len(self.log_weights))

    @property
    def log_z_error(self) -> float:
        """The standard error of `log_z` to first order."""
        shares = torch.softmax(self.log_weights, 0)
        return float((shares.square().sum() - 1.0 / len(shares)).clamp(min=0.0).sqrt())

    def draw(self, n: int, source: Generator) -> Float[Tensor, "n N D"]:
        """Draw walkers with probabilities proportional to their weights."""
        shares = torch.softmax(self.log_weights, 0)
        return self.x[torch.multinomial(shares, n, replacement=True, generator=source)]

    @property
    def effective_walkers(self) -> float:
        """The effective number of the weights (Kish 1965)."""
        return float(1.0 / torch.softmax(self.log_weights, 0).square().sum())


def anneal(
    potential: Potential, plan: AnnealingPlan, source: Generator, report: ProgressCallback = lambda *_: None
) -> tuple[AnnealingResult, list[float]]:
    """Anneal from the Gaussian to the potential.

    Returns:
        The result of the main run, and its step sizes, which a pilot run has adapted.
    """
    sizes = _run(potential, plan, plan.ladder, _gaussian_walkers(potential, plan, PILOTS, source), None, source)[1]
    x = _gaussian_walkers(potential, plan, plan.walkers, source)
    log_weights, _, x = _run(potential, plan, plan.ladder, x, sizes, source, report)
    return AnnealingResult(log_weights + _log_z_gaussian(potential, plan.spread), x), sizes


@dataclass(frozen=True)
class NormalisingConstant:
    """Estimates of log Z of a potential, nats.

    The true value lies between `from_below` and `from_above` in expectation (Grosse et al. 2015).

    Attributes:
        log_z, log_z_error: estimate from both directions by Bennett's acceptance ratio, and its standard error.
        from_below, from_below_error: estimate from the forward annealing alone, which is biased downwards.
        from_above, from_above_error: estimate from the reverse annealing alone, which is biased upwards.
        effective_walkers: effective number of the weights of the forward annealing (Kish 1965).
    """

    log_z: float
    log_z_error: float
    from_below: float
    from_below_error: float
    from_above: float
    from_above_error: float
    effective_walkers: float


def normalising_constant(
    potential: Potential,
    plan: AnnealingPlan,
    x: Float[Tensor, "W N D"],
    source: Generator,
    report: ProgressCallback = lambda *_: None,
) -> NormalisingConstant:
    """Estimate log Z by annealing from the Gaussian to the potential and, from samples x of the potential, back.

    Args:
        potential: the system.
        plan: schedule of the annealing.
        x: samples of the potential, the walkers of the reverse annealing.
        source: source of all noise.
        report: receives the progress.
    """
    forward, sizes = anneal(potential, plan, source, report)
    reverse_sizes = [*reversed(sizes[:-1]), sizes[0]]
    reverse = AnnealingResult(*_run(potential, plan, plan.ladder[::-1], x, reverse_sizes, source, report)[::2])
    known = _log_z_gaussian(potential, plan.spread)
    ratio, error = bennett(forward.log_weights - known, reverse.log_weights)
    below, above = (forward.log_z, forward.log_z_error), (known - reverse.log_z, reverse.log_z_error)
    return NormalisingConstant(ratio + known, error, *below, *above, forward.effective_walkers)


def bennett(forward: Float[Tensor, " W"], reverse: Float[Tensor, " V"]) -> tuple[float, float]:
    """Estimate the log of the ratio of two normalising constants, and its standard error (Bennett 1976).

    The estimate c solves sum s(forward - c - m) = sum s(reverse + c + m), with s the logistic function and m the log of
    the ratio of the sample sizes. It has the least variance of all estimates from both sets of weights.

    Args:
        forward: log-weights of the forward annealing.
        reverse: log-weights of the reverse annealing.
    """
    lead = math.log(len(forward) / len(reverse))

    def shares(c: float) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(forward - c - lead), torch.sigmoid(reverse + c + lead)

    def excess(c: float) -> float:
        first, second = shares(c)
        return float(first.sum() - second.sum())

    ends = [float(end) for each in (forward, -reverse) for end in each.aminmax()]
    found = float(brentq(excess, min(ends) - 50.0, max(ends) + 50.0))
    variance = sum(float(f.square().mean() / f.mean().square() - 1.0) / len(f) for f in shares(found))
    return found, math.sqrt(variance)


def _run(
    potential: Potential,
    plan: AnnealingPlan,
    ladder: Sequence[float],
    x: Tensor,
    sizes: Sequence[float] | None,
    source: Generator,
    report: ProgressCallback = lambda *_: None,
) -> tuple[Tensor, list[float], Tensor]:
    """Return the log-weights, the step sizes (adapted if `sizes` is None), and the final positions."""
    log_weights = torch.zeros(len(x), dtype=torch.float64)
    taken, size = [], 0.3 * plan.spread
    for k, (before, after) in enumerate(itertools.pairwise(ladder)):
        log_weights -= (after - before) * (potential.energy(x) - _gaussian(x, plan.spread))
        size = size if sizes is None else sizes[k]
        energy = _between(potential, plan.spread, after)
        (x, _, _), probability = hmc_step(energy, chain_state(energy, x), size, plan.leaps, source)
        taken.append(size)
        size *= math.exp(0.3 * (float(probability.mean()) - TARGET_ACCEPTANCE))
        report(f"annealing of {potential.name}", k + 1, len(ladder) - 1)
    return log_weights, taken, x


def _gaussian_walkers(potential: Potential, plan: AnnealingPlan, n: int, source: Generator) -> Tensor:
    return plan.spread * centred_normal((n, potential.n_particles, potential.n_dims), source)


def _log_z_gaussian(potential: Potential, spread: float) -> float:
    return 0.5 * potential.degrees_of_freedom * math.log(2.0 * math.pi * spread**2)


def _gaussian(x: Tensor, spread: float) -> Tensor:
    return 0.5 * x.square().sum((1, 2)) / spread**2


def _between(potential: Potential, spread: float, b: float) -> Callable[[Tensor], Tensor]:
    return lambda x: (1.0 - b) * _gaussian(x, spread) + b * potential.energy(x)
