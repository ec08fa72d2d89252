"""Bonds from geometry: right for textbook molecules and for QM9, and a reason where there are none."""

import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from enflow.model.chem.bonds import Bonds, _BondSearch, infer_bonds, to_mol
from enflow.model.chem.elements import VALENCES
from enflow.model.chem.molecule import Molecule


def molecule(smiles: str) -> Molecule:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=11) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=2000)
    return Molecule([atom.GetAtomicNum() for atom in mol.GetAtoms()], mol.GetConformer().GetPositions())


@pytest.mark.parametrize(
    "smiles",
    [
        "C", "N", "O", "F", "C#N", "C=O", "O=C=O", "CC#C", "C1CC1", "c1ccccc1", "c1cc[nH]c1", "c1ccoc1", "n1ccncc1",
        "CC(=O)N", "C[N+](=O)[O-]", "CN=[N+]=[N-]", "[NH3+]CC(=O)[O-]", "C1CC12CC2", "C1C2CC1C2", "C12C3C4C1C5C2C3C45",
        "FC(F)(F)C", "O=C1C=CC(=O)C=C1", "N#CC#N", "C=C=C", "[C-]#[N+]C", "C[C@H](N)C(=O)O",
        "C/C=C/C", "C/C=C\\C", "O[C@@H]1CO[C@H]1F",
    ],
)  # fmt: skip
def test_bonds_are_those_that_made_the_geometry(smiles: str) -> None:
    bonds = infer_bonds(molecule(smiles))
    assert bonds.status == "ok"
    assert bonds.smiles == Chem.CanonSmiles(smiles)
    assert (bonds.charge, bonds.fragments, bonds.whole) == (0, 1, True)
    assert bonds.rdkit == rdBase.rdkitVersion
    assert bonds.method == "DetermineBonds, covalent radii x 1.15"


def test_charges_go_where_a_chemist_puts_them() -> None:
    # RDKit alone answers with a carbanion between the amino groups.
    bonds = infer_bonds(molecule("NC(N)=[NH+]c1nnc[n-]1"))
    assert bonds.smiles == "NC(N)=[NH+]c1nnc[n-]1"
    assert sorted(bonds.charges)[0] == -1
    assert sorted(bonds.charges)[-1] == 1


def test_ions_on_request() -> None:
    ammonium = molecule("[NH4+]")
    assert infer_bonds(ammonium).status == "failed"
    assert infer_bonds(ammonium, charge=1).smiles == "[NH4+]"
    assert infer_bonds(molecule("CC(=O)[O-]"), charge=-1).smiles == "CC(=O)[O-]"


def test_pieces_are_counted() -> None:
    methane, water = molecule("C"), molecule("O")
    both = Molecule(
        [*methane.atomic_numbers, *water.atomic_numbers],
        [*methane.positions, *(water.positions + np.array([8.0, 0, 0]))],
    )
    bonds = infer_bonds(both)
    assert (bonds.status, bonds.fragments, bonds.whole, bonds.smiles) == ("ok", 2, False, "C.O")


@pytest.mark.parametrize("stretch", [1.5, 3.0, 20.0])
def test_atoms_far_apart_are_no_ions(stretch: float) -> None:
    methane = np.array([[0.0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]) * 0.63
    assert infer_bonds(Molecule([6, 1, 1, 1, 1], stretch * methane)).status == "failed"


def test_failure_says_which_atoms() -> None:
    methane = molecule("C")
    methyl = Molecule(methane.atomic_numbers[:4], methane.positions[:4])
    bonds = infer_bonds(methyl)
    assert bonds.status == "failed"
    assert bonds.reason == "no bonds give every atom a closed shell at total charge 0; by distance, bonds at C1 3 of 4"
    assert (bonds.pairs, bonds.charges, bonds.smiles, bonds.method) == ((), (), None, None)
    assert to_mol(methyl, bonds).GetNumBonds() == 0


@pytest.mark.parametrize("numbers", [[1], [6], [2], [18, 18], [92, 1]])
def test_tiny_and_strange(numbers: list[int]) -> None:
    found = infer_bonds(Molecule(numbers, [[1.7 * i, 0, 0] for i in range(len(numbers))]))
    assert (found.status == "failed") == bool(found.reason)


def test_a_lump_ends() -> None:
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), axis=-1).reshape(-1, 3) * 1.3
    lump = Molecule(rng.choice([6, 7, 8], 125), lattice)
    assert infer_bonds(lump).status == "failed"


def test_an_interrupted_search_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """RDKit catches SIGINT and reports success with single bonds only; here its search is made to do that."""
    from enflow.model.chem import bonds as module

    connect = module.rdDetermineBonds.DetermineConnectivity

    class Interrupted:
        DetermineConnectivity = staticmethod(connect)

        @staticmethod
        def DetermineBonds(mol: Chem.Mol, **_: object) -> None:
            connect(mol, useVdw=True, covFactor=1.15)

    monkeypatch.setattr(module, "rdDetermineBonds", Interrupted)
    found = infer_bonds(molecule("C=O"))
    assert found.method == "bond-order search, covalent radii x 1.15"
    assert found.smiles == "C=O"


def test_methane_torn_apart_is_no_molecule() -> None:
    methane = molecule("C")
    torn = infer_bonds(Molecule(methane.atomic_numbers, 4 * methane.positions))
    assert torn.status == "failed"  # RDKit alone: [C-4] and four [H+], which it sanitizes
    assert str(torn.reason).endswith("bonds at C1 0 of 4, H2 0 of 1, H3 0 of 1, H4 0 of 1 and 1 more")


def test_to_mol_gives_back_what_was_inferred() -> None:
    original = molecule("C[C@H](N)c1ccco1")
    bonds = pickle.loads(pickle.dumps(infer_bonds(original)))
    assert isinstance(bonds, Bonds)
    mol = to_mol(original, bonds)
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == bonds.smiles == Chem.CanonSmiles("C[C@H](N)c1ccco1")
    np.testing.assert_array_equal(mol.GetConformer().GetPositions(), original.positions)


@pytest.mark.parametrize("seed", range(12))
def test_the_search_without_charges_comes_to_the_result_of_the_whole_search(seed: int) -> None:
    exact = molecule("CC(=O)N[C@H]1CO1")
    noise = np.random.default_rng(seed).normal(scale=0.04 * (1 + seed % 4), size=exact.positions.shape)
    distorted = Molecule(exact.atomic_numbers, exact.positions + noise)
    candidates = list(_BondSearch(distorted, 0).candidates(math.inf))
    expected = min(candidates, key=lambda each: each.rank).method if candidates else None
    assert infer_bonds(distorted).method == expected


def test_qm9(qm9_test: Callable[[int], list[Molecule]]) -> None:
    """Plain DetermineBonds succeeds for 94.4 %; the target is 99.5 %; benchmarks/bench_bonds.py measures 2,000."""
    molecules = qm9_test(300)
    inferred = [infer_bonds(m) for m in molecules]
    assert sum(bonds.whole for bonds in inferred) >= 0.995 * len(inferred)
    for m, bonds in zip(molecules, inferred, strict=True):
        orders = np.zeros(m.n_atoms, dtype=int)
        for i, j, order in bonds.pairs:
            orders[[i, j]] += order
        neutral = np.array(bonds.charges) == 0
        assert (orders[neutral] == [VALENCES[z] for z in m.atomic_numbers[neutral]]).all()
        assert bonds.charge == 0


def test_generated_molecules_are_answered_or_explained(original_samples: list[Molecule]) -> None:
    inferred = [infer_bonds(m) for m in original_samples[:40]]
    counts = {status: sum(b.status == status for b in inferred) for status in ("ok", "failed")}
    assert sum(counts.values()) == 40
    assert all(bool(b.reason) == (b.status == "failed") for b in inferred)
    assert min(counts.values()) >= 10
