"""Latent walks: matching against known rotations and permutations, paths against their closed forms."""

import numpy as np
import pytest
from scipy.stats import ortho_group, special_ortho_group

from enflow.service.handlers.latent_geometry import aligned, match, rmsd, rotation, spherical
from enflow.service.protocol.requests import LatentArrays, Structure

# CHFClBr-like: four different neighbours, no plane, no axis; an odd atom more so that nothing is symmetric.
CHIRAL = Structure(
    np.array([6, 1, 7, 8, 9, 1]),
    np.array([[0, 0, 0], [0.6, 0.7, 0.5], [-0.9, -0.8, 0.7], [-0.9, 0.9, -0.6], [0.8, -0.7, -0.8], [-1.5, -1.0, 1.5]]),
)


def moved(structure: Structure, turn: np.ndarray, order: np.ndarray) -> Structure:
    return Structure(structure.atomic_numbers[order], (structure.positions @ turn + [3.0, -2.0, 1.0])[order])


@pytest.mark.parametrize("seed", range(8))
def test_a_turned_and_shuffled_molecule_is_the_same_one(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(6)
    other = moved(CHIRAL, special_ortho_group.rvs(3, random_state=seed), order)
    assert rmsd(other, CHIRAL) == pytest.approx(0, abs=1e-9)
    found, turn = match(other, CHIRAL)
    assert np.array_equal(order[found], np.arange(6))
    assert np.linalg.det(turn) == pytest.approx(1)


def test_a_mirror_image_is_another_molecule() -> None:
    mirrored = Structure(CHIRAL.atomic_numbers, CHIRAL.positions * [1, 1, -1])
    assert rmsd(mirrored, CHIRAL) > 0.1


def test_rmsd_of_a_stretched_bond_in_closed_form() -> None:
    """Two atoms whose distance grows by 2 d are each d away after superposition."""
    short, long = (Structure(np.array([6, 8]), np.array([[0.0, 0, 0], [length, 0, 0]])) for length in (1.2, 1.6))
    assert rmsd(long, short) == pytest.approx(0.2)


def test_rotation_is_proper_even_where_a_reflection_would_fit_better() -> None:
    points = np.random.default_rng(0).standard_normal((7, 3))
    reflection = ortho_group.rvs(3, random_state=0)
    reflection *= -np.sign(np.linalg.det(reflection))
    found = rotation(points, points @ reflection)
    assert np.allclose(found @ found.T, np.eye(3))
    assert np.linalg.det(found) == pytest.approx(1)


def test_aligning_a_latent_moves_it_as_its_molecule() -> None:
    latent = LatentArrays(CHIRAL.positions, np.eye(6, 5))
    turn, order = special_ortho_group.rvs(3, random_state=1), np.random.default_rng(1).permutation(6)
    found = aligned(latent, order, turn)
    assert np.allclose(found.x, (latent.x @ turn)[order])
    assert np.array_equal(found.h, latent.h[order])


def test_the_way_is_a_great_circle() -> None:
    """Between orthogonal unit vectors a and b the path is cos(s pi/2) a + sin(s pi/2) b."""
    a = LatentArrays(np.array([[1.0, 0, 0], [0, 0, 0]]), np.zeros((2, 2)))
    b = LatentArrays(np.zeros((2, 3)), np.array([[0.0, 0], [0, 1.0]]))
    for s in np.linspace(0, 1, 7):
        point = spherical(a, b, s)
        assert point.x[0, 0] == pytest.approx(np.cos(s * np.pi / 2))
        assert point.h[1, 1] == pytest.approx(np.sin(s * np.pi / 2))


def test_the_way_begins_and_ends_at_its_ends_and_keeps_its_length() -> None:
    random = np.random.default_rng(0)
    noise = [random.standard_normal((9, 3)) for _ in range(2)]
    a, b = (LatentArrays(x - x.mean(axis=0), random.standard_normal((9, 5))) for x in noise)
    lengths = []
    for s in np.linspace(0, 1, 5):
        point = spherical(a, b, s)
        lengths.append(np.hypot(np.linalg.norm(point.x), np.linalg.norm(point.h)))
        assert np.allclose(point.x.mean(axis=0), 0)
    assert np.allclose(np.diff(lengths, 2), 0)  # from one length to the other, linearly
    assert np.allclose(spherical(a, b, 0).x, a.x)
    assert np.allclose(spherical(a, b, 1).h, b.h)
    assert np.allclose(spherical(a, a, 0.3).x, a.x)  # no way at all
