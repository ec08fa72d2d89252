"""Annealed importance sampling against a normaliser in closed form, from below and from above."""

import math

import pytest
import torch

from model.training.annealing import Annealed, AnnealingPlan, anneal, descend
from model.training.chains import centred_normal
from tests.training.test_chains import springs


def test_it_finds_the_normaliser_of_springs_from_both_sides() -> None:
    stiffness, potential = 9.0, springs(9.0)
    truth = 0.5 * potential.degrees_of_freedom * math.log(2 * math.pi / stiffness)
    plan = AnnealingPlan(walkers=400, temperatures=80, power=1.5, leaps=4, spread=1.0)
    source = torch.Generator().manual_seed(0)
    annealed, sizes = anneal(potential, plan, source)
    assert annealed.log_z_error < 0.1
    assert annealed.log_z == pytest.approx(truth, abs=4 * annealed.log_z_error)
    exact = centred_normal((400, 3, 2), source) / math.sqrt(stiffness)
    assert descend(potential, plan, exact, sizes, source) == pytest.approx(truth, abs=0.3)
    spread = annealed.draw(4000, source).square().mean().item() * 1.5  # of 6 entries 4 are free
    assert spread == pytest.approx(1 / stiffness, rel=0.2)


def test_the_error_is_that_of_a_mean() -> None:
    log_weights = torch.tensor([0.0, math.log(3.0)], dtype=torch.float64)
    annealed = Annealed(log_weights, torch.zeros(2, 3, 2))
    assert annealed.log_z == pytest.approx(math.log(2.0))
    assert annealed.effective_walkers == pytest.approx(16 / 10)
    assert annealed.log_z_error == pytest.approx(math.sqrt(10 / 16 - 1 / 2))
