"""Histograms count what they say, and their divergence is the textbook's."""

from collections.abc import Callable

import numpy as np
import pytest

from enflow.model.chem.analysis.histograms import distance_histogram, histograms, jensen_shannon
from enflow.model.chem.analysis.strain import strain
from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.molecule import Molecule

METHANE = Molecule(
    [6, 1, 1, 1, 1], 0.63 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
)


def test_jensen_shannon() -> None:
    p, q = np.array([1, 3]), np.array([3, 1])
    expected = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert jensen_shannon(p, q) == pytest.approx(expected, abs=1e-8)
    assert jensen_shannon(p, 10 * p) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon(np.array([1, 0]), np.array([0, 1])) == pytest.approx(np.log(2), abs=1e-7)


def test_distance_histogram() -> None:
    line = Molecule([1, 1, 1], [[0, 0, 0], [0, 0, 1.0], [0, 0, 40.0]])
    counts = distance_histogram([line, METHANE])
    assert counts.sum() == 3 + 10
    assert counts[7] == 1
    assert counts[99] == 2  # beyond the reach
    assert counts[8] == 4  # C-H at 1.09


def test_bonds_angles_elements_and_sizes_of_methane() -> None:
    counts = histograms([METHANE, METHANE])
    assert {int(k): int(counts["bond_lengths"][k]) for k in np.flatnonzero(counts["bond_lengths"])} == {109: 8}
    assert {int(k): int(counts["angles"][k]) for k in np.flatnonzero(counts["angles"])} == {54: 12}  # 109.47 degrees
    assert (counts["elements"][1], counts["elements"][6], counts["elements"].sum()) == (8, 2, 10)
    assert (counts["sizes"][5], counts["sizes"].sum()) == (2, 2)


def test_atoms_at_one_point_do_no_harm() -> None:
    point = Molecule([6, 6, 1], np.zeros((3, 3)))
    assert histograms([point])["angles"].sum() == 3


def test_no_molecules_have_no_histogram() -> None:
    with pytest.raises(ValueError, match="found no molecules"):
        histograms([])


def divergences(molecules: list[Molecule], reference: list[Molecule]) -> dict[str, float]:
    found, expected = histograms(molecules), histograms(reference)
    return {name: jensen_shannon(counts, expected[name]) for name, counts in found.items()}


def test_samples_of_the_original_are_farther_from_qm9_than_its_halves_from_each_other(
    qm9_test: Callable[[int], list[Molecule]], original_samples: list[Molecule]
) -> None:
    molecules = qm9_test(700)
    halves, samples = divergences(molecules[::2], molecules[1::2]), divergences(original_samples, molecules)
    assert halves.keys() == samples.keys() == {"distances", "bond_lengths", "angles", "elements", "sizes"}
    assert all(value < 0.03 for value in halves.values())
    for name in ("distances", "bond_lengths", "angles"):
        assert samples[name] > 2 * halves[name]


def test_strain_of_a_stretched_bond() -> None:
    relaxed, stretched = (
        strain(m, infer_bonds(m)) for m in (METHANE, Molecule(METHANE.atomic_numbers, 1.1 * METHANE.positions))
    )
    assert relaxed == pytest.approx(0, abs=0.1)
    assert stretched is not None
    # MMFF94, C-H: k = 4.766 mdyn/angstrom, 4 bonds, cubic and quartic terms: 143.9325/2 k dr^2 (1 - 2 dr + 7/3 dr^2).
    dr = 1.1 * 0.63 * 3**0.5 - 1.093
    assert stretched == pytest.approx(4 * 143.9325 / 2 * 4.766 * dr**2 * (1 - 2 * dr + 7 / 3 * dr**2), rel=0.03)
    radical = Molecule(METHANE.atomic_numbers[:4], METHANE.positions[:4])
    assert strain(radical, infer_bonds(radical)) is None
