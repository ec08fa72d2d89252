"""Variations: without noise they are the molecule, with noise alone they are samples, and noise has a known size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from enflow.model.chem.molecule import Molecule
from enflow.model.errors import ConfigError
from tests.model.flow.small_networks import OURS, VECTORS, small_flow
from tests.model.flow.test_molecule_flow import gaussian_flow

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]])
METHANOL = Molecule(
    [6, 8, 1, 1, 1, 1],
    [[-0.05, 0.66, 0], [-0.05, -0.76, 0], [-1.09, 0.98, 0], [0.44, 1.07, 0.89], [0.44, 1.07, -0.89], [0.88, -1.06, 0]],
)


def test_without_noise_they_are_the_molecule() -> None:
    for found in small_flow().variations(METHANOL, 2, strength=0.0):
        assert np.array_equal(found.atomic_numbers, METHANOL.atomic_numbers)
        np.testing.assert_allclose(found.positions, METHANOL.centred().positions, atol=1e-12)


@pytest.mark.parametrize("config", [OURS, VECTORS])
def test_with_noise_alone_they_are_the_samples_of_the_seed_in_another_orientation(config) -> None:
    """The coupling only permutes, rotates and reflects the noise, which an equivariant flow carries to the molecule."""
    flow = small_flow(config)
    varied = flow.variations(METHANOL, 2, strength=1.0, seed=3, rtol=1e-6, atol=1e-6)
    for one, drawn in zip(varied, flow.sample([6, 6], seed=3, rtol=1e-6, atol=1e-6), strict=True):
        assert one.formula == drawn.formula
        np.testing.assert_allclose(np.sort(pdist(one.positions)), np.sort(pdist(drawn.positions)), atol=1e-4)
        assert not np.allclose(one.positions, drawn.positions, atol=0.1)


def test_given_types_stay_and_noise_is_not_exchanged_between_them() -> None:
    flow = small_flow(replace(VECTORS, output="still"))
    (found,) = flow.variations(METHANOL, 1, strength=1.0)
    assert np.array_equal(found.atomic_numbers, METHANOL.atomic_numbers)
    start, noise = flow.noised(METHANOL, 0.0, 0, 0), flow.draw_latent(6, 0, 0)
    np.testing.assert_allclose(start.x[:2].norm(dim=1), noise.x[:2].norm(dim=1))  # carbon and oxygen: one atom each
    np.testing.assert_allclose(np.sort(start.x[2:].norm(dim=1)), np.sort(noise.x[2:].norm(dim=1)))


def test_the_noise_is_gaussian_whatever_the_molecule() -> None:
    """At t = 0 the coupling has changed no length: |x|^2 of N atoms has mean 3 (N - 1), |h|^2 has mean 5 N."""
    flow = small_flow(act_norm=False)
    states = [flow.noised(WATER, 0.0, 0, index) for index in range(400)]
    x, h = (np.array([float(part.square().sum()) for part in parts]) for parts in zip(*states, strict=True))
    assert x.mean() == pytest.approx(6, abs=4 * np.sqrt(12 / 400))
    assert h.mean() == pytest.approx(15, abs=4 * np.sqrt(30 / 400))


def test_the_flow_begins_at_their_time() -> None:
    """x(1) = exp(A (1 - t)) x(t) where the velocity is A x."""
    flow = gaussian_flow()
    start = flow.noised(WATER, 0.25, 0, 0)
    (found,) = flow.variations(WATER, 1, strength=0.75, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.positions, np.exp(0.3 * 0.75) * start.x.numpy(), atol=1e-6)
    assert torch.allclose(start.x.sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-12)


def test_a_strength_beyond_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"found strength 1\.5, expected 0 to 1"):
        small_flow().variations(WATER, strength=1.5)
