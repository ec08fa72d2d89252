"""Annealed importance sampling (Neal 2001): the normaliser of a potential, and walkers that follow its distribution.

From a Gaussian of the potential's own spread, whose normaliser is known, energies go over E_b = (1 - b) E_0 + b E with
b from 0 to 1, a step of Hamiltonian Monte Carlo at each. The mean of the weights exp(-sum (b' - b)(E - E_0)) is Z / Z_0
whatever the schedule; only its error depends on it.
The way back, from samples to the Gaussian, tells the same ratio from the other side.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Generator, Tensor

from enflow.model.training.mcmc.hmc import at, centred_normal, hmc_step
from enflow.model.training.mcmc.potentials import Potential

PILOTS = 256
"""Walkers of the run that finds the sizes of the steps; the run that counts takes them as they are."""
WANTED = 0.75
"""Acceptance that the pilots adapt to."""

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AnnealingPlan:
    """A schedule.

    Attributes:
        walkers: of the run that counts.
        temperatures: steps of b.
        power: b = s^power for s evenly from 0 to 1; a hard core asks for a high one.
        leaps: leapfrog steps at each.
        spread: standard deviation of the Gaussian per dimension.
    """

    walkers: int
    temperatures: int
    power: float
    leaps: int
    spread: float

    @property
    def ladder(self) -> list[float]:
        """Values of b."""
        return [(k / self.temperatures) ** self.power for k in range(self.temperatures + 1)]


@dataclass(frozen=True)
class Annealed:
    """What came of it: log Z of every walker by itself, and where the walkers ended."""

    log_weights: Float[Tensor, " W"]
    x: Float[Tensor, "W N D"]

    @property
    def log_z(self) -> float:
        """log of the integral of exp(-E) over the subspace of zero centre of mass, nats."""
        return float(torch.logsumexp(self.log_weights, 0)) - math.log(len(self.log_weights))

    @property
    def log_z_error(self) -> float:
        """Its standard error, to first order that of the mean of the weights."""
        shares = torch.softmax(self.log_weights, 0)
        return float((shares.square().sum() - 1.0 / len(shares)).clamp(min=0.0).sqrt())

    def draw(self, n: int, source: Generator) -> Float[Tensor, "n N D"]:
        """Walkers drawn by their weights: a walker that the annealing lost has next to none."""
        shares = torch.softmax(self.log_weights, 0)
        return self.x[torch.multinomial(shares, n, replacement=True, generator=source)]

    @property
    def effective_walkers(self) -> float:
        """Kish's effective number of the weights."""
        return float(1.0 / torch.softmax(self.log_weights, 0).square().sum())


def anneal(
    potential: Potential, plan: AnnealingPlan, source: Generator, report: Report = lambda *_: None
) -> tuple[Annealed, list[float]]:
    """Anneal pilots to find the sizes of the steps, then the walkers that count; also those sizes."""
    sizes = _run(potential, plan, plan.ladder, _gaussian_walkers(potential, plan, PILOTS, source), None, source)[1]
    x = _gaussian_walkers(potential, plan, plan.walkers, source)
    log_weights, _, x = _run(potential, plan, plan.ladder, x, sizes, source, report)
    return Annealed(log_weights + _log_z_gaussian(potential, plan.spread), x), sizes


@dataclass(frozen=True)
class Normaliser:
    """log Z of a potential, nats.

    Attributes:
        log_z, log_z_error: of both ways together by Bennett's acceptance ratio, and its standard error.
        from_below, from_below_error: of the way from the Gaussian alone, which errs downwards.
        from_above, from_above_error: of the way back to it from samples of the potential, which errs upwards:
            together they hold log Z between them (Grosse et al. 2015).
        effective_walkers: Kish's effective number of the weights of the way there.
    """

    log_z: float
    log_z_error: float
    from_below: float
    from_below_error: float
    from_above: float
    from_above_error: float
    effective_walkers: float


def normaliser(
    potential: Potential,
    plan: AnnealingPlan,
    x: Float[Tensor, "W N D"],
    source: Generator,
    report: Report = lambda *_: None,
) -> Normaliser:
    """log Z by annealing from the Gaussian, and from samples x of the potential back to it."""
    there, sizes = anneal(potential, plan, source, report)
    way_back = [*reversed(sizes[:-1]), sizes[0]]
    back = Annealed(*_run(potential, plan, plan.ladder[::-1], x, way_back, source, report)[::2])
    known = _log_z_gaussian(potential, plan.spread)
    share, error = bennett(there.log_weights - known, back.log_weights)
    below, above = (there.log_z, there.log_z_error), (known - back.log_z, back.log_z_error)
    return Normaliser(share + known, error, *below, *above, there.effective_walkers)


def bennett(there: Float[Tensor, " W"], back: Float[Tensor, " V"]) -> tuple[float, float]:
    """log of the ratio of two normalisers from log-weights of both ways, and its standard error (Bennett 1976).

    Of all estimates from the two it has the least variance: c such that the sum of s(there - c - m) is that of
    s(back + c + m), with s the logistic function and m = log of the numbers' ratio.
    """
    lead = math.log(len(there) / len(back))

    def shares(c: float) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(there - c - lead), torch.sigmoid(back + c + lead)

    def excess(c: float) -> float:
        forth, home = shares(c)
        return float(forth.sum() - home.sum())

    ends = [float(end) for each in (there, -back) for end in each.aminmax()]
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
    report: Report = lambda *_: None,
) -> tuple[Tensor, list[float], Tensor]:
    """Log-weights, sizes of the steps (adapted where none are given) and walkers at the end of the ladder."""
    log_weights = torch.zeros(len(x), dtype=torch.float64)
    taken, size = [], 0.3 * plan.spread
    for k, (before, after) in enumerate(itertools.pairwise(ladder)):
        log_weights -= (after - before) * (potential.energy(x) - _gaussian(x, plan.spread))
        size = size if sizes is None else sizes[k]
        energy = _between(potential, plan.spread, after)
        (x, _, _), probability = hmc_step(energy, at(energy, x), size, plan.leaps, source)
        taken.append(size)
        size *= math.exp(0.3 * (float(probability.mean()) - WANTED))
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
