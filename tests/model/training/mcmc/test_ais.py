"""Annealed importance sampling against a normalising constant in closed form, in both directions."""

import math

import pytest
import torch

from enflow.model.training.mcmc.ais import AnnealingPlan, AnnealingResult, anneal, bennett, normalising_constant
from enflow.model.training.mcmc.hmc import centred_normal
from tests.model.training.mcmc.test_hmc import springs


def test_both_directions_find_the_normalising_constant_of_springs() -> None:
    stiffness, potential = 9.0, springs(9.0)
    truth = 0.5 * potential.degrees_of_freedom * math.log(2 * math.pi / stiffness)
    plan = AnnealingPlan(walkers=400, temperatures=80, power=1.5, leaps=4, spread=1.0)
    source = torch.Generator().manual_seed(0)
    annealed, _ = anneal(potential, plan, source)
    assert annealed.log_z_error < 0.1
    assert annealed.log_z == pytest.approx(truth, abs=4 * annealed.log_z_error)
    exact = centred_normal((400, 3, 2), source) / math.sqrt(stiffness)
    both = normalising_constant(potential, plan, exact, source)
    assert both.log_z_error < 0.05
    assert both.log_z == pytest.approx(truth, abs=4 * both.log_z_error)
    assert both.from_above == pytest.approx(truth, abs=4 * both.from_above_error)
    assert both.from_below == pytest.approx(truth, abs=4 * both.from_below_error)
    spread = annealed.draw(4000, source).square().mean().item() * 1.5  # of 6 entries 4 are free
    assert spread == pytest.approx(1 / stiffness, rel=0.2)


def test_the_error_is_that_of_a_mean() -> None:
    log_weights = torch.tensor([0.0, math.log(3.0)], dtype=torch.float64)
    annealed = AnnealingResult(log_weights, torch.zeros(2, 3, 2))
    assert annealed.log_z == pytest.approx(math.log(2.0))
    assert annealed.effective_walkers == pytest.approx(16 / 10)
    assert annealed.log_z_error == pytest.approx(math.sqrt(10 / 16 - 1 / 2))


def test_bennett_finds_the_ratio_of_two_gaussians() -> None:
    # Normal log-weights of variance v have the means c - v / 2 (forward) and -c - v / 2 (reverse).
    truth, variance, source = 1.7, 4.0, torch.Generator().manual_seed(3)
    forward = truth - variance / 2 + variance**0.5 * torch.randn(4000, generator=source, dtype=torch.float64)
    reverse = -truth - variance / 2 + variance**0.5 * torch.randn(1500, generator=source, dtype=torch.float64)
    found, error = bennett(forward, reverse)
    assert error < 0.06
    assert found == pytest.approx(truth, abs=4 * error)
    assert bennett(reverse, forward)[0] == pytest.approx(-found, abs=1e-9)
