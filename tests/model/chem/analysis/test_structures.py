"""Rings, functional groups, bonds and angles by type, against molecules whose answer is known by heart."""

import numpy as np
import pytest
from rdkit import Chem

from enflow.model.chem.analysis.groups import SMARTS, ring_and_group_counts
from enflow.model.chem.analysis.structures import Structures, bond_counts, bonded, compare
from enflow.model.chem.analysis.typed_geometry import (
    COMMON,
    TYPED_LENGTH_BINS,
    compare_types,
    mean_divergence,
    typed_geometry,
)
from enflow.model.chem.bonds import Bonds, infer_bonds
from enflow.model.chem.molecule import Molecule

METHANE = Molecule(
    [6, 1, 1, 1, 1],
    [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]],
)
WATER = Molecule([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
BENZENE = Molecule(
    [6] * 6 + [1] * 6,
    [[r * np.cos(k * np.pi / 3), r * np.sin(k * np.pi / 3), 0.0] for r in (1.395, 2.48) for k in range(6)],
)
TORN = Molecule(METHANE.atomic_numbers, METHANE.positions * 3)

ONE_GROUP = {
    "alkene": "CC=C", "alkyne": "CC#C", "aromatic ring": "Cc1ccccc1", "alcohol": "CCO", "ether": "COC",
    "cyclic ether": "C1CCOC1", "epoxide": "CC1CO1", "aldehyde": "CC=O", "ketone": "CC(C)=O",
    "carboxylic acid": "CC(=O)O", "ester": "CC(=O)OC", "amide": "CC(=O)NC", "amine": "CNC", "aziridine": "CC1CN1",
    "imine": "CC=N", "nitrile": "CC#N", "fluoride": "CF",
}  # fmt: skip


def mol(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def mols_of(*molecules: Molecule) -> list[Chem.Mol]:
    found = bonded(molecules, [infer_bonds(molecule) for molecule in molecules])
    return [mol for mol in found if mol is not None]


@pytest.mark.parametrize("group", SMARTS)
def test_a_molecule_has_its_functional_group_and_no_other(group):
    found = ring_and_group_counts([mol(ONE_GROUP[group])])["functional_groups"]
    assert [name for name, n in zip([*SMARTS, "none"], found, strict=True) if n] == [group]


def test_rings_are_counted_by_size_and_by_molecule():
    found = ring_and_group_counts([mol(smiles) for smiles in ("CCC", "C1CC1", "C1CC2CC2C1", "C1CCCCCCCCCCCCC1")])
    assert {size: n for size, n in enumerate(found["ring_sizes"]) if n} == {3: 2, 5: 1, 12: 1}
    assert found["rings"].tolist()[:4] == [1, 2, 1, 0]
    assert found["functional_groups"][-1] == 4


def test_lengths_and_angles_have_the_type_of_their_bonds():
    found = typed_geometry(mols_of(METHANE, WATER, BENZENE))
    assert {name: len(values) for name, values in found.lengths.items()} == {"C-H": 10, "H-O": 2, "C:C": 6}
    assert found.lengths["C:C"] == pytest.approx([1.395] * 6)
    assert sorted(found.lengths["C-H"])[-1] == pytest.approx(0.63 * 3**0.5)
    assert {name: len(values) for name, values in found.angles.items()} == {
        "H-C-H": 6, "H-O-H": 1, "C-C-C": 6, "C-C-H": 12
    }  # fmt: skip
    assert found.angles["H-C-H"] == pytest.approx([np.degrees(np.arccos(-1 / 3))] * 6)
    assert found.angles["H-O-H"] == pytest.approx([2 * np.degrees(np.arctan2(0.76, 0.59))])
    assert found.angles["C-C-H"] == pytest.approx([120.0] * 12)


def test_types_that_are_common_in_the_data_are_compared():
    data = {"C-C": np.full(3 * COMMON, 1.505), "C=O": np.full(COMMON, 1.205), "C-F": np.full(COMMON - 1, 1.305)}
    half = np.repeat([1.505, 1.605], COMMON)
    bonds, carbonyls = compare_types({"C-C": half, "C-F": half}, data, TYPED_LENGTH_BINS)
    assert (bonds.name, bonds.counts, carbonyls.name, carbonyls.counts) == ("C-C", (200, 300), "C=O", (0, 100))
    assert bonds.means == pytest.approx((1.555, 1.505))
    assert bonds.deviations == pytest.approx((0.05, 0.0))
    assert bonds.divergence == pytest.approx(0.2157616, abs=1e-6)  # of (1/2, 1/2) and (1, 0)
    assert carbonyls.divergence == pytest.approx(np.log(2))
    assert mean_divergence([bonds, carbonyls]) == pytest.approx(0.75 * bonds.divergence + 0.25 * np.log(2))
    assert mean_divergence([]) is None


def test_a_set_does_not_diverge_from_itself_and_shares_are_of_molecules():
    mols = mols_of(METHANE, BENZENE)
    both, one = Structures.of(mols * COMMON), Structures.of(mols[:1] * COMMON)
    divergences, shown = compare(both, both)
    assert divergences == pytest.approx(dict.fromkeys(divergences, 0.0))
    assert set(divergences) == {
        "ring_sizes", "rings", "functional_groups", "bond_lengths_by_type", "angles_by_type"
    }  # fmt: skip
    assert ["aromatic ring", 0.5, 0.5] in shown["functional_groups"]
    divergences, shown = compare(one, both)
    assert "ring_sizes" not in divergences, "methane has no ring"
    assert divergences["functional_groups"] == pytest.approx(0.2157616, abs=1e-6)
    assert ["aromatic ring", 0.0, 0.5] in shown["functional_groups"]


def test_bonds_are_counted_by_who_found_them():
    searched = Bonds("ok", "", method="bond-order search, distance table", fragments=2)
    found = bond_counts([infer_bonds(METHANE), searched, Bonds("failed", "", reason="none")])
    assert found == {"inferred_validity": 2, "inferred_whole": 1, "rdkit_validity": 1}
    assert bonded([TORN], [Bonds("failed", "", reason="none")]) == [None]
