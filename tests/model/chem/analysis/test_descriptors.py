"""Descriptors agree with published values of known molecules."""

import csv
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, RDConfig
from rdkit.Chem import AllChem

from enflow.model.chem.analysis import novelty
from enflow.model.chem.analysis.descriptors import MoleculeDescriptors, describe, outside
from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.molecule import Molecule


def embedded(smiles: str) -> Molecule:
    """Return the geometry of a SMILES, at the nearest minimum of MMFF94s."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    AllChem.MMFFOptimizeMolecule(mol, mmffVariant="MMFF94s", maxIters=2000)
    return Molecule.from_rdkit(mol)


def described(molecule: Molecule) -> MoleculeDescriptors:
    found = describe(molecule, infer_bonds(molecule))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("smiles", "inchikey"),
    [
        ("C", "VNWKTOKETHGBQD-UHFFFAOYSA-N"),
        ("O", "XLYOFNOQVPJJNP-UHFFFAOYSA-N"),
        ("CCO", "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"),
        ("c1ccccc1", "UHOVQNZJYSORNB-UHFFFAOYSA-N"),
        ("CC(=O)Oc1ccccc1C(=O)O", "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"),
        ("Cn1c(=O)c2c(ncn2C)n(C)c1=O", "RYYVLZVUVIJVGH-UHFFFAOYSA-N"),
        ("C[C@H](N)C(=O)O", "QNAYBMKLOCPYGJ-REOHCLBHSA-N"),
    ],
)
def test_inchikeys_are_those_of_pubchem(smiles: str, inchikey: str) -> None:
    assert described(embedded(smiles)).inchikey == inchikey


def test_aspirin_has_its_published_properties() -> None:
    """PubChem CID 2244: 180.16 g/mol, TPSA 63.6, one donor. Bickerton et al. (2012), drug 1 of their table: QED 0.55.

    Wildman and Crippen's logP is 1.31, and Ertl and Schuffenhauer give 1.6 for the synthetic accessibility.
    """
    found = described(embedded("CC(=O)Oc1ccccc1C(=O)O"))
    assert found.weight == pytest.approx(180.16, abs=0.01)
    assert found.tpsa == pytest.approx(63.6, abs=0.01)
    assert (found.rings, found.donors, found.acceptors) == (1, 1, 3)
    assert found.heavy_atoms == 13
    assert found.qed == pytest.approx(0.550, abs=0.001)
    assert found.logp == pytest.approx(1.310, abs=0.001)
    assert found.sa_score == pytest.approx(1.6, abs=0.05)
    assert found.strain == pytest.approx(0.0, abs=0.01)


def test_benzoic_acid_has_the_values_of_the_rdkit_book() -> None:
    """RDKit, Getting Started in Python, list of descriptors, of c1ccccc1C(=O)O: TPSA 37.3 and logP 1.3848."""
    found = described(embedded("c1ccccc1C(=O)O"))
    assert found.tpsa == pytest.approx(37.3, abs=0.01)
    assert found.logp == pytest.approx(1.3848, abs=1e-4)


@pytest.mark.parametrize(
    ("smiles", "number"),
    [("CCCC", 1), ("CCCCO", 2), ("CC(=O)NC", 0), ("CC(=O)OC", 0), ("C1CCCCC1", 0), ("c1ccccc1CC", 1)],
)
def test_rotatable_bonds_are_those_between_atoms_with_other_neighbours(smiles: str, number: int) -> None:
    """Neither bonds to a methyl or hydroxyl group, nor those of rings, amides and esters."""
    assert described(embedded(smiles)).rotatable_bonds == number


@pytest.mark.parametrize(
    ("smiles", "qed"),
    [
        ("N=C(CCSCc1csc(N=C(N)N)n1)NS(N)(=O)=O", 0.253),
        ("CNC(=NCCSCc1nc[nH]c1C)NC#N", 0.234),
        ("CCCCCNC(=N)NN=Cc1c[nH]c2ccc(CO)cc12", 0.234),
    ],
)
def test_qed_is_that_of_its_authors(smiles: str, qed: float) -> None:
    """Famotidine, cimetidine and tegaserod, the example of Biscu-it and of the tests of RDKit's QED.

    Two of them have the hydrogen of an imine, which RDKit keeps as an atom unless it is told not to.
    """
    assert described(embedded(smiles)).qed == pytest.approx(qed, abs=0.002)


def test_the_sa_score_is_that_of_its_authors() -> None:
    """The table of the contribution to RDKit; of ions and nitrogen oxides the geometry does not give the same bonds."""
    table = Path(RDConfig.RDContribDir) / "SA_Score" / "data" / "zim.100.txt"
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if not {"+", "-", "@", "/"} & set(row[0])]
    small = [row for row in rows[1:] if len(row[0]) < 35]
    assert len(small) >= 10
    for smiles, _, score in small[:10]:
        assert described(embedded(smiles)).sa_score == pytest.approx(float(score), abs=2e-3), smiles


def test_hydrogen_has_descriptors_and_torn_atoms_have_none() -> None:
    assert described(Molecule([1, 1], [[0, 0, 0], [0.74, 0, 0]])).weight == pytest.approx(2.016)
    torn = Molecule([6, 1, 1], [[0, 0, 0], [5, 0, 0], [-5, 0, 0]])
    assert describe(torn, infer_bonds(torn)) is None


def test_a_stretched_bond_is_strained() -> None:
    """Halgren 1996, eq. 2, with 7.88 mdyn/angstrom and 0.969 angstrom of O-H in water; no other term changes much."""
    water = embedded("O")
    positions = water.positions.copy()
    positions[1] += 0.2 * (positions[1] - positions[0])
    dr = float(np.linalg.norm(positions[1] - positions[0])) - 0.969
    energy = 143.9325 / 2 * 7.88 * dr**2 * (1 - 2 * dr + 7 / 12 * 4 * dr**2)
    assert described(Molecule(water.atomic_numbers, positions)).strain == pytest.approx(energy, rel=0.05)


def test_bounds_include_their_ends_and_name_the_property_that_is_outside() -> None:
    found = described(embedded("CCO"))
    assert outside(found, {"rings": (0.0, 0.0), "weight": (None, 46.069), "qed": (0.4, None)}) is None
    assert outside(found, {"qed": (0.5, None)}) == "qed below 0.5"
    assert outside(found, {"rings": (0.0, None), "weight": (None, 40.0)}) == "weight above 40"
    hydrogen = described(Molecule([1, 1], [[0, 0, 0], [0.74, 0, 0]]))
    assert outside(hydrogen, {"strain": (None, 5.0)}) == "strain not known"


def test_two_waters_apart_are_not_connected() -> None:
    """Both have closed shells, so that their bonds are found; they make two pieces."""
    water = embedded("O")
    pair = Molecule([*water.atomic_numbers] * 2, np.concatenate([water.positions, water.positions + 5.0]))
    assert (described(water).connected, described(pair).connected) == (True, False)
    assert outside(described(pair), {"connected": False}) is None
    assert outside(described(pair), {"connected": True}) == "connected is not true"


def test_molecules_of_qm9_are_not_novel() -> None:
    """The first entries of GDB-9, and both forms of propylene oxide; QM9 has at most nine heavy atoms."""
    for smiles in ("C", "N", "C#N", "CO", "C[C@H]1CO1", "C[C@@H]1CO1"):
        assert described(embedded(smiles)).novel is False, smiles
    for smiles in ("CCCCCCCCCC", "c1ccc2ccccc2c1"):
        assert described(embedded(smiles)).novel is True, smiles


def test_the_hashes_are_sorted_and_as_many_as_qm9_has_molecules() -> None:
    known = novelty.known_hashes()
    assert known is not None
    assert (known[1:] > known[:-1]).all()
    assert known.dtype == np.uint64
    assert 125_000 < len(known) <= 129_193  # molecules of the data; some are mirror images or tautomers of each other
