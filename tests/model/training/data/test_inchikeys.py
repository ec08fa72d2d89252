"""The file of InChIKeys holds each molecule of a prepared QM9 once, without regard to stereochemistry."""

from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import AllChem

from enflow.model.chem.analysis.novelty import hashes
from enflow.model.chem.molecule import Molecule
from enflow.model.training.data.inchikeys import write_inchikeys


def embedded(smiles: str) -> Molecule:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    return Molecule.from_rdkit(mol)


def test_every_molecule_is_there_once(tmp_path: Path) -> None:
    """The keys are those of PubChem: methane, ethanol and both forms of propylene oxide, in all three splits."""
    molecules = [embedded(smiles) for smiles in ("C", "CCO", "C[C@H]1CO1", "C[C@@H]1CO1")]
    np.savez(
        tmp_path / "qm9.npz",
        num_atoms=np.array([each.n_atoms for each in molecules], np.uint8),
        atomic_numbers=np.concatenate([each.atomic_numbers for each in molecules]).astype(np.uint8),
        positions=np.concatenate([each.positions for each in molecules]).astype(np.float32),
        split=np.array([0, 1, 2, 0], np.uint8),
    )
    out = tmp_path / "inchikeys.npy"
    assert write_inchikeys(tmp_path / "qm9.npz", out, lambda *_: None) == (3, 4)
    keys = ["VNWKTOKETHGBQD", "LFQSCWFLJHTTHZ", "GOOHAUXETOMSMM"]
    np.testing.assert_array_equal(np.load(out, allow_pickle=False), hashes(keys))
