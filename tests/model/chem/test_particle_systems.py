"""Particles as atoms of one element: the structures that a system accepts, and energies computed by hand."""

import numpy as np
import pytest

from enflow.model.chem.molecule import Molecule
from enflow.model.chem.particle_systems import ParticleSystem
from enflow.model.errors import VocabularyError

SQUARE = 4.0 * np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
DW4 = ParticleSystem("mine", 4, 2, "dw4")


def test_whatever_the_elements_they_are_particles() -> None:
    taken = DW4.taken(Molecule([1, 6, 7, 8], SQUARE, "a square", {"from": "elsewhere"}))
    assert taken.symbols == ["Ar"] * 4
    assert np.array_equal(taken.positions, SQUARE)
    assert (taken.name, taken.properties) == ("a square", {"from": "elsewhere"})
    assert DW4.coordinates(taken.positions).shape == (4, 2)


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        (SQUARE[:3], "found 3 particles, expected 4"),
        (SQUARE + np.array([0, 0, 0.5]), "0.5 as z of particle 1, expected 0"),
    ],
)
def test_another_number_or_another_space_is_refused(positions: np.ndarray, said: str) -> None:
    with pytest.raises(VocabularyError, match=said):
        DW4.taken(Molecule([18] * len(positions), positions))


def test_energies_are_those_of_the_pairs() -> None:
    # Of a square of side 4 the sides cost nothing, each diagonal 0.9 u^4 - 4 u^2 with u = 4 sqrt(2) - 4.
    u = 4 * np.sqrt(2) - 4
    assert DW4.energy(SQUARE) == pytest.approx(2 * (0.9 * u**4 - 4 * u**2))
    pair = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert ParticleSystem("two", 2, 3, "lj13").energy(pair) == pytest.approx(-1 + 0.25)
    assert ParticleSystem("two", 2, 3, "nothing known").energy(pair) is None
