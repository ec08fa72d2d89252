"""A molecule is checked when it is made; later code relies on that."""

import pickle

import numpy as np
import pytest

from enflow.model.chem.elements import QM9
from enflow.model.chem.molecule import Molecule, check_apart, check_vocabulary
from enflow.model.errors import StructureError, VocabularyError

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.1], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], name="water")


def line_of(elements: list[int]) -> Molecule:
    return Molecule(elements, [[1.5 * i, 0.0, 0.0] for i in range(len(elements))])


@pytest.mark.parametrize(
    ("elements", "formula"),
    [
        ([1, 1, 8], "H2O"),
        ([1, 6, 1, 8, 6], "C2H2O"),
        ([8, 6, 8], "CO2"),
        ([17, 1, 7, 1, 1, 1], "ClH4N"),
        ([9, 9], "F2"),
    ],
)
def test_formula_in_hill_order(elements: list[int], formula: str) -> None:
    assert line_of(elements).formula == formula


def test_centred() -> None:
    moved = Molecule(WATER.atomic_numbers, WATER.positions + np.array([3.0, -4.0, 5.0]), "w", {"k": 1})
    np.testing.assert_allclose(moved.centred().positions.mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(moved.centred().positions, WATER.positions - WATER.positions.mean(axis=0), atol=1e-15)
    assert (moved.centred().name, moved.centred().properties) == ("w", {"k": 1})


@pytest.mark.parametrize(
    ("elements", "positions", "message"),
    [
        ([], np.zeros((0, 3)), "at least one atom"),
        ([[1]], np.zeros((1, 3)), "expected \\(N,\\)"),
        ([1.5], np.zeros((1, 3)), "expected integers"),
        ([0], np.zeros((1, 3)), "found atomic number 0 of atom 1, expected 1 to 118"),
        ([1, 119], [[0, 0, 0], [1, 0, 0]], "found atomic number 119 of atom 2"),
        ([1, 1], np.zeros((2, 2)), "found positions of shape \\(2, 2\\), expected \\(2, 3\\)"),
        ([1, 1], [[0, 0, 0], [1, np.nan, 0]], "found nan as y of atom 2, expected a finite number"),
        ([1, 1], [[0, 0, 0], [1, 1, -np.inf]], "found -inf as z of atom 2"),
        ([1, 1], [[0, 0, 0], [1, 1, 1e300]], "found 1e\\+300 as z of atom 2"),
    ],
)
def test_wrong_arguments_are_refused(elements: object, positions: object, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        Molecule(elements, positions)  # type: ignore[arg-type]


def test_coincident_atoms_are_found_wherever_they_stand() -> None:
    rng = np.random.default_rng(1)
    positions = rng.uniform(-20, 20, (300, 3))
    positions[:, 0] = 0  # all in one plane: sorting along x does not help
    positions[211] = positions[17] + [0, 0, 0.01]
    crowded = Molecule(np.ones(300, dtype=int), positions)  # a sample may have this
    with pytest.raises(
        StructureError, match=r"atoms 18 and 212 at a distance of 0\.01 angstrom, expected at least 0\.1"
    ):
        check_apart(crowded)
    check_apart(Molecule(crowded.atomic_numbers[:211], crowded.positions[:211]))


def test_fields_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        WATER.positions[0, 0] = 1.0
    with pytest.raises(AttributeError):
        WATER.name = "ice"  # type: ignore[misc]


def test_equality_is_of_atoms_and_positions() -> None:
    assert Molecule([8, 1, 1], WATER.positions, name="another", properties={"nll": -1.0}) == WATER
    assert Molecule([8, 1, 1], WATER.positions + 1e-12) != WATER
    assert Molecule([7, 1, 1], WATER.positions) != WATER
    assert len({WATER, pickle.loads(pickle.dumps(WATER))}) == 1


def test_vocabulary() -> None:
    check_vocabulary(WATER, QM9)
    with pytest.raises(VocabularyError, match="found S as atom 2, expected one of H, C, N, O, F"):
        check_vocabulary(line_of([1, 16, 1]), QM9)
    with pytest.raises(VocabularyError, match="found 30 atoms, expected at most 29"):
        check_vocabulary(line_of([6] * 30), QM9)
