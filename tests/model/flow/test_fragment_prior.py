"""The prior of the atoms around a fragment: places known by hand, its law under motions, its density by counting."""

import math

import numpy as np
import pytest

from enflow.model.flow.fragment_prior import RADIUS, REACH, front, log_density, noise_around
from tests.laws import rotation

ETHYL = np.array([6, 6, 1, 1, 1])
X = np.array([[0, 0, 0], [1.5, 0, 0], [-0.5, 1.0, 0], [-0.5, -0.5, 0.87], [-0.5, -0.5, -0.87]])


def test_the_place_is_in_front_of_the_open_bonds() -> None:
    """The second carbon of an ethyl group lacks three bonds; its neighbour lies behind it."""
    np.testing.assert_allclose(front(ETHYL, X) + X.mean(0), [1.5 + REACH, 0, 0], atol=1e-12)
    # Both oxygen atoms of peroxide lack one: the place is between them.
    np.testing.assert_allclose(front(np.array([8, 8]), np.array([[0, 0, 0], [1.4, 0, 0]])), 0, atol=1e-12)


def test_atoms_with_multiple_bonds_and_with_hydrogen_lack_what_is_left() -> None:
    """H-C=O lacks one bond at the carbon and none at the oxygen; a phenyl group lacks one at one carbon."""
    carbonyl = np.array([[0, 0, 0], [1.2, 0, 0], [-0.6, 0.9, 0]])
    away = -carbonyl[1] / 1.2 - carbonyl[2] / np.linalg.norm(carbonyl[2])
    numbers = np.array([6, 8, 1])
    np.testing.assert_allclose(front(numbers, carbonyl) + carbonyl.mean(0), REACH * away, atol=1e-6)
    angles = np.arange(6) * np.pi / 3
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    phenyl = np.concatenate([1.39 * ring, 2.48 * ring[1:]])
    place = front(np.array([6] * 6 + [1] * 5), phenyl) + phenyl.mean(0)
    np.testing.assert_allclose(place, [1.39 + REACH, 0, 0], atol=1e-9)


def test_a_closed_fragment_has_its_mean() -> None:
    water = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    np.testing.assert_allclose(front(np.array([8, 1, 1]), water), 0, atol=1e-12)


def test_noise_moves_with_its_fragment() -> None:
    turn, noise = rotation(5, reflect=True).numpy(), np.random.default_rng(0).standard_normal((5, 3))
    for numbers, x in ((ETHYL, X), (ETHYL[:1], X[:1])):
        straight, turned = noise_around(noise, numbers, x), noise_around(noise @ turn, numbers, x @ turn + 3.0)
        np.testing.assert_allclose(turned, straight @ turn, atol=1e-12)
        assert log_density(turned, numbers, x @ turn + 3.0) == pytest.approx(log_density(straight, numbers, x))


@pytest.mark.parametrize(("numbers", "x"), [(ETHYL, X), (ETHYL[:1], X[:1])])
def test_the_density_is_that_of_the_noise(numbers: np.ndarray, x: np.ndarray) -> None:
    """The mean of q / p over noise is 1 for a density q, here a wide Gaussian about the mean of the noise."""
    rng = np.random.default_rng(1)
    drawn = [noise_around(rng.standard_normal((3, 3)), numbers, x) for _ in range(20_000)]
    middle, s = np.mean(drawn, (0, 1)), 0.9
    q = [-0.5 * np.square((y - middle) / s).sum() - 6 * math.log(s) - 3 * math.log(2 * math.pi) for y in drawn]
    ratios = np.exp(np.array(q) - [log_density(y, numbers, x) for y in drawn])
    assert ratios.mean() == pytest.approx(1.0, abs=4 * ratios.std() / math.sqrt(len(ratios)))
    assert ratios.std() < 10


def test_around_a_single_atom_the_others_lie_in_a_random_direction() -> None:
    rng = np.random.default_rng(2)
    means = np.array([noise_around(rng.standard_normal((401, 3)), ETHYL[:1], X[:1]).mean(0) for _ in range(300)])
    assert np.linalg.norm(means, axis=1).mean() == pytest.approx(RADIUS, abs=0.02)
    assert np.abs(means.mean(0)).max() < 4 * RADIUS / math.sqrt(3 * 300)
    assert log_density(np.zeros((1, 3)), ETHYL[:1], X[:1]) == pytest.approx(
        -(RADIUS**2) / 2 - 1.5 * math.log(2 * math.pi)
    )
