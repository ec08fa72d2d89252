"""The metrics give the published values: on the data itself and on what the original model sampled."""

from collections.abc import Callable

import numpy as np
import pytest

from model.chem.metrics import stability
from model.chem.molecule import Molecule

METHANE = Molecule(
    [6, 1, 1, 1, 1], 0.63 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
)


def test_methane_is_stable_and_methyl_is_not() -> None:
    methyl = Molecule(METHANE.atomic_numbers[:4], METHANE.positions[:4])
    result = stability([METHANE, methyl])
    assert result.stable.tolist() == [True, False]
    assert result.stable_atoms.tolist() == [5, 3]  # the carbon lacks a bond
    assert result.atom_stability == 8 / 9
    assert result.molecule_stability == 1 / 2


def test_no_molecules_have_no_stability() -> None:
    with pytest.raises(ValueError, match="found no molecules"):
        stability([])


def test_stability_of_the_original_samples(original_samples: list[Molecule]) -> None:
    result = stability(original_samples)
    assert round(100 * result.atom_stability, 2) == 84.55
    assert round(100 * result.molecule_stability, 2) == 4.57


def test_stability_of_qm9(qm9_test: Callable[[int], list[Molecule]]) -> None:
    result = stability(qm9_test(13083))
    assert round(100 * result.molecule_stability, 1) == 95.2
    assert result.atom_stability == pytest.approx(0.994, abs=1e-3)
