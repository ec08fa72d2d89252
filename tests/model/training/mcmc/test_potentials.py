"""Energies of the particle systems: values by hand, gradients, and the virial theorem."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from enflow.model.chem.particle_systems import double_well, lennard_jones
from enflow.model.training.mcmc.potentials import DW4, LJ13, Potential


def spread(potential: Potential, n: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * potential.n_dims)[: potential.n_particles]
    noise = torch.randn(n, *grid.shape, generator=source, dtype=torch.float64)
    x = 1.2 * grid + 0.05 * noise
    return x - x.mean(1, keepdim=True)


def test_pairs_have_the_energies_of_the_formulas() -> None:
    for d in (3.0, 4.0, 4.0 - math.sqrt(4 / 1.8), 5.5):
        pair = torch.tensor([[[0.0, 0.0], [d, 0.0]]], dtype=torch.float64)
        assert double_well(pair).item() == pytest.approx(0.9 * (d - 4) ** 4 - 4 * (d - 4) ** 2)
    for d in (0.9, 1.0, 2.0):
        pair = torch.tensor([[[0.0, 0.0, 0.0], [0.0, d, 0.0]]], dtype=torch.float64)
        assert lennard_jones(pair).item() == pytest.approx(d**-12 - 2 * d**-6 + d**2 / 4)


def test_every_pair_counts_once() -> None:
    square = 4.0 * torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
    diagonal = 4 * math.sqrt(2) - 4
    assert double_well(square).item() == pytest.approx(2 * (0.9 * diagonal**4 - 4 * diagonal**2))


@pytest.mark.parametrize("potential", [DW4, LJ13], ids=lambda p: p.name)
def test_gradients_agree_with_finite_differences_and_carry_no_drift(potential: Potential) -> None:
    x = spread(potential, 3)
    gradient = potential.gradient(x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-6
    expected = (potential.energy(x + step * direction) - potential.energy(x - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum((1, 2)), expected, rtol=1e-6, atol=1e-6)
    assert gradient.sum(1).abs().max() < 1e-9


@pytest.mark.parametrize("potential", [DW4, LJ13], ids=lambda p: p.name)
def test_energies_are_invariant(potential: Potential) -> None:
    x = spread(potential, 2)
    turn, _ = torch.linalg.qr(torch.randn(potential.n_dims, potential.n_dims, dtype=torch.float64))
    moved = (x @ turn + 2.0)[:, torch.randperm(potential.n_particles)]
    torch.testing.assert_close(potential.energy(moved), potential.energy(x), rtol=1e-10, atol=0)


def test_the_virial_of_a_hybrid_chain_is_the_number_of_dimensions() -> None:
    source, size, leaps = torch.Generator().manual_seed(2), 0.06, 12
    x = 2.5 * spread(DW4, 400)
    virials = []
    for sweep in range(120):
        p = torch.randn(x.shape, generator=source, dtype=torch.float64)
        p -= p.mean(1, keepdim=True)
        y, q = x, p
        for _ in range(leaps):  # leapfrog
            q = q - size / 2 * DW4.gradient(y)
            y = y + size * q
            q = q - size / 2 * DW4.gradient(y)
        before = DW4.energy(x) + p.square().sum((1, 2)) / 2
        after = DW4.energy(y) + q.square().sum((1, 2)) / 2
        accepted = torch.rand(len(x), generator=source, dtype=torch.float64) < (before - after).exp()
        x = torch.where(accepted[:, None, None], y, x)
        if sweep >= 20:
            virials.append((x * DW4.gradient(x)).sum((1, 2)))
    of_walker = torch.stack(virials).mean(0)
    error = of_walker.std().item() / math.sqrt(len(x))
    assert error < 0.5
    assert of_walker.mean().item() == pytest.approx(DW4.degrees_of_freedom, abs=3.5 * error)


def test_the_virial_of_others_samples(shared: Path) -> None:
    # They follow twice the Lennard-Jones strength in the same trap; their own virial is 36.6 for the test set.
    x = torch.from_numpy(np.load(shared / "data" / "lj13_test.npy")[:4000].reshape(-1, 13, 3)).double()
    x = x - x.mean(1, keepdim=True)
    forces = 2 * LJ13.gradient(x) - x
    assert (x * forces).sum((1, 2)).mean().item() == pytest.approx(LJ13.degrees_of_freedom, abs=1.2)
