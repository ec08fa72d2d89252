"""Hamiltonian Monte Carlo with many chains, and the diagnostics of their convergence.

A step of a chain draws a new momentum, takes `leaps` leapfrog steps of length `size`, and accepts the end with
probability min(1, exp(-change of the total energy)) (Duane, Kennedy, Pendleton, Roweth 1987).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Generator, Tensor

from enflow.model.progress import ProgressCallback
from enflow.model.training.mcmc.potentials import Potential

Energy = Callable[[Tensor], Tensor]


class ChainState(NamedTuple):
    """The state of W chains: positions without centre of mass, energies, and gradients of the energy."""

    x: Float[Tensor, "W N D"]
    energy: Float[Tensor, " W"]
    gradient: Float[Tensor, "W N D"]


def chain_state(energy: Energy, x: Float[Tensor, "W N D"]) -> ChainState:
    """Return the state of chains at positions x."""
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        value = energy(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return ChainState(x, value.detach(), gradient)


def centred_normal(shape: tuple[int, ...], source: Generator) -> Float[Tensor, "W N D"]:
    """Draw standard normal noise without centre of mass, float64."""
    noise = torch.randn(shape, generator=source, dtype=torch.float64)
    return noise - noise.mean(-2, keepdim=True)


def hmc_step(
    energy: Energy, state: ChainState, size: float, leaps: int, source: Generator
) -> tuple[ChainState, Float[Tensor, " W"]]:
    """Take one step with every chain.

    Args:
        energy: the energy (W, N, D) -> (W,), in units of the temperature.
        state: the chains.
        size: length of a leapfrog step.
        leaps: number of leapfrog steps.
        source: source of the momenta and of the acceptance.

    Returns:
        The new states, and the probability with which each chain's end was accepted.
    """
    momentum = centred_normal(tuple(state.x.shape), source)
    start = state.energy + 0.5 * momentum.square().sum((1, 2))
    end = state
    for _ in range(leaps):
        momentum = momentum - 0.5 * size * end.gradient
        end = chain_state(energy, end.x + size * momentum)
        momentum = momentum - 0.5 * size * end.gradient
    change = start - end.energy - 0.5 * momentum.square().sum((1, 2))
    probability = torch.where(change.isfinite(), change, -torch.inf).exp().clamp(max=1.0)
    accepted = torch.rand(len(probability), generator=source, dtype=torch.float64) < probability
    chosen = (torch.where(accepted.view(-1, *[1] * (b.ndim - 1)), a, b) for a, b in zip(end, state, strict=True))
    return ChainState(*chosen), probability


@dataclass(frozen=True)
class ChainPlan:
    """The length of the chains and the settings of their steps.

    Attributes:
        chains: number of independent chains.
        samples: number of samples kept of each chain.
        burn_in: number of steps before the first sample.
        thin: number of steps between two samples.
        size: length of a leapfrog step.
        leaps: number of leapfrog steps per step.
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
    report: ProgressCallback = lambda *_: None,
) -> tuple[Float[Tensor, "S W N D"], float]:
    """Run chains of a potential.

    Args:
        potential: the system.
        start: positions of the chains before their first step.
        plan: length and settings of the chains.
        source: source of all noise.
        report: receives the progress.

    Returns:
        The kept samples of every chain in their order, and the mean acceptance.
    """
    state = chain_state(potential.energy, start)
    kept, acceptance = [], []
    steps = plan.burn_in + plan.samples * plan.thin
    for step in range(1, steps + 1):
        state, probability = hmc_step(potential.energy, state, plan.size, plan.leaps, source)
        if step > plan.burn_in:
            acceptance.append(float(probability.mean()))
            if (step - plan.burn_in) % plan.thin == 0:
                kept.append(state.x)
        report(f"chains of {potential.name}", step, steps)
    return torch.stack(kept), float(np.mean(acceptance))


def split_r_hat(values: NDArray[np.float64]) -> float:
    """Return split-R-hat of a quantity along chains: 1 if the halves of all chains agree (Gelman et al. 2013).

    Args:
        values: (samples, chains).
    """
    from arviz_stats.base import array_stats

    return float(array_stats.rhat(values, chain_axis=1, draw_axis=0, method="split"))


def effective_samples(values: NDArray[np.float64]) -> float:
    """Return the effective sample size of a quantity's mean over all chains (Geyer 1992; Vehtari et al. 2021).

    Args:
        values: (samples, chains).
    """
    from arviz_stats.base import array_stats

    return float(array_stats.ess(values, chain_axis=1, draw_axis=0, method="mean"))
