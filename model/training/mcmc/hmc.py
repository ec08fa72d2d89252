"""Samples of a potential by many chains of Hamiltonian Monte Carlo, and what shows that they are mixed.

A chain's step: momenta are drawn anew, `leaps` leapfrog steps of size `size` are taken, the end is accepted with
probability min(1, exp(-change of the total energy)) (Duane, Kennedy, Pendleton, Roweth 1987).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Generator, Tensor

from enflow.model.training.mcmc.potentials import Potential

Energy = Callable[[Tensor], Tensor]


class Walkers(NamedTuple):
    """Where chains stand: positions without centre of mass, energy and its gradient."""

    x: Float[Tensor, "W N D"]
    energy: Float[Tensor, " W"]
    gradient: Float[Tensor, "W N D"]


def at(energy: Energy, x: Float[Tensor, "W N D"]) -> Walkers:
    """Walkers at positions x."""
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        value = energy(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return Walkers(x, value.detach(), gradient)


def centred_normal(shape: tuple[int, ...], source: Generator) -> Float[Tensor, "W N D"]:
    """Standard normal noise without centre of mass, float64."""
    noise = torch.randn(shape, generator=source, dtype=torch.float64)
    return noise - noise.mean(-2, keepdim=True)


def hmc_step(
    energy: Energy, walkers: Walkers, size: float, leaps: int, source: Generator
) -> tuple[Walkers, Float[Tensor, " W"]]:
    """One step of every chain; also the probability with which each was accepted."""
    momentum = centred_normal(tuple(walkers.x.shape), source)
    start = walkers.energy + 0.5 * momentum.square().sum((1, 2))
    end = walkers
    for _ in range(leaps):
        momentum = momentum - 0.5 * size * end.gradient
        end = at(energy, end.x + size * momentum)
        momentum = momentum - 0.5 * size * end.gradient
    change = start - end.energy - 0.5 * momentum.square().sum((1, 2))
    probability = torch.where(change.isfinite(), change, -torch.inf).exp().clamp(max=1.0)
    accepted = torch.rand(len(probability), generator=source, dtype=torch.float64) < probability
    chosen = (torch.where(accepted.view(-1, *[1] * (b.ndim - 1)), a, b) for a, b in zip(end, walkers, strict=True))
    return Walkers(*chosen), probability


@dataclass(frozen=True)
class ChainPlan:
    """How chains of a potential are run.

    Attributes:
        chains: walkers, independent from their starts on.
        samples: kept of each.
        burn_in: steps before the first is kept.
        thin: steps from one that is kept to the next.
        size, leaps: of the leapfrog.
    """

    chains: int
    samples: int
    burn_in: int
    thin: int
    size: float
    leaps: int


def run_chains(
    potential: Potential,
    start: Float[Tensor, "W N D"],
    plan: ChainPlan,
    source: Generator,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[Float[Tensor, "S W N D"], float]:
    """Kept samples of every chain in their order, and the mean acceptance."""
    walkers = at(potential.energy, start)
    kept, acceptance = [], []
    steps = plan.burn_in + plan.samples * plan.thin
    for step in range(1, steps + 1):
        walkers, probability = hmc_step(potential.energy, walkers, plan.size, plan.leaps, source)
        if step > plan.burn_in:
            acceptance.append(float(probability.mean()))
            if (step - plan.burn_in) % plan.thin == 0:
                kept.append(walkers.x)
        report(f"chains of {potential.name}", step, steps)
    return torch.stack(kept), float(np.mean(acceptance))


def split_r_hat(values: NDArray[np.float64]) -> float:
    """Split-R-hat of a quantity along chains (samples, chains): 1 where halves of chains agree (Gelman et al. 2013)."""
    half = len(values) // 2
    halves = np.concatenate([values[:half], values[half : 2 * half]], 1)
    within = float(halves.var(0, ddof=1).mean())
    between = float(halves.mean(0).var(ddof=1))
    return math.sqrt((half - 1) / half + between / within)


def effective_samples(values: NDArray[np.float64]) -> float:
    """Effective sample size over all chains (samples, chains) by Geyer's initial positive sequence (Geyer 1992)."""
    n, chains = values.shape
    centred = values - values.mean()
    variance = float((centred**2).mean())
    pairs: list[float] = []
    for lag in range(1, n - 1, 2):
        pair = sum(float((centred[: n - k] * centred[k:]).mean()) / variance for k in (lag, lag + 1))
        if pair < 0:
            break
        pairs.append(pair)
    smooth = np.minimum.accumulate(pairs) if pairs else np.zeros(1)
    return float(n * chains / (1.0 + 2.0 * smooth.sum()))
