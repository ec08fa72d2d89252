"""Chains and their diagnostics against distributions and processes known in closed form."""

import numpy as np
import pytest
import torch
from torch import Tensor

from enflow.model.training.mcmc.hmc import ChainPlan, effective_samples, run_chains, split_r_hat
from enflow.model.training.mcmc.potentials import Potential


def springs(stiffness: float, n_particles: int = 3, n_dims: int = 2) -> Potential:
    """Every particle on a spring to the centre: a Gaussian of variance 1 / stiffness."""

    def energy(x: Tensor) -> Tensor:
        return 0.5 * stiffness * (x - x.mean(-2, keepdim=True)).square().sum((-2, -1))

    return Potential("springs", n_particles, n_dims, energy)


def test_chains_follow_a_gaussian_from_a_far_start() -> None:
    potential = springs(4.0)
    source = torch.Generator().manual_seed(0)
    start = torch.full((200, 3, 2), 2.0, dtype=torch.float64)
    start[:, 0] = -4.0
    plan = ChainPlan(chains=200, samples=40, burn_in=40, thin=2, size=0.35, leaps=5)
    kept, acceptance = run_chains(potential, start, plan, source)
    assert kept.shape == (40, 200, 3, 2)
    assert kept.mean(2).abs().max() < 1e-9
    of_chain = kept.square().sum((2, 3)).mean(0)
    error = of_chain.std().item() / 200**0.5
    assert error < 0.03
    assert of_chain.mean().item() == pytest.approx(potential.degrees_of_freedom / 4.0, abs=4 * error)
    assert 0.5 < acceptance < 1.0  # leapfrog errs, and rejection makes up for it


def test_a_chain_repeats_itself_from_the_same_seed() -> None:
    plan = ChainPlan(chains=3, samples=2, burn_in=1, thin=1, size=0.3, leaps=2)
    start = torch.zeros(3, 3, 2, dtype=torch.float64)
    runs = [run_chains(springs(1.0), start, plan, torch.Generator().manual_seed(5))[0] for _ in range(2)]
    assert torch.equal(*runs)


def test_r_hat_is_one_for_one_distribution_and_more_for_two() -> None:
    values = np.random.default_rng(0).standard_normal((500, 40))
    assert split_r_hat(values) == pytest.approx(1.0, abs=0.003)
    apart = values + np.where(np.arange(40) < 20, 0.0, 2.0)  # variances 1 within, 1 + 1 in all
    assert split_r_hat(apart) == pytest.approx(2.0**0.5, abs=0.03)
    assert split_r_hat(values + np.linspace(0, 4, 500)[:, None]) > 1.3, "drift shows between halves"


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_effective_samples_of_an_autoregressive_process(rho: float) -> None:
    rng = np.random.default_rng(1)
    values = np.zeros((4000, 30))
    values[0] = rng.standard_normal(30)
    for i in range(1, len(values)):
        values[i] = rho * values[i - 1] + (1 - rho**2) ** 0.5 * rng.standard_normal(30)
    expected = values.size * (1 - rho) / (1 + rho)
    assert effective_samples(values) == pytest.approx(expected, rel=0.06)
