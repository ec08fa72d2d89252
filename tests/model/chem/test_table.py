"""A table of molecules has a row for each, with the identifiers and the numbers that other programs give."""

import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from ase.build import molecule as ase_molecule
from rdkit import Chem
from rdkit.Chem import AllChem

import enflow
from enflow.model.chem.molecule import Molecule
from enflow.model.chem.table import to_dataframe
from enflow.model.errors import StructureError

TORN = Molecule([6, 1, 1], [[0, 0, 0], [5, 0, 0], [-5, 0, 0]])


def test_one_row_of_every_molecule() -> None:
    """ASE's geometries of the G2 set; InChIKeys, formulas and weights are those of PubChem."""
    table = to_dataframe([ase_molecule("CH3CH2OH"), Molecule.from_ase(ase_molecule("C6H6")), TORN])
    assert isinstance(table, pd.DataFrame)
    assert table["formula"].tolist() == ["C2H6O", "C6H6", "CH2"]
    assert table["smiles"].tolist()[:2] == ["CCO", "c1ccccc1"]
    assert table["inchikey"].tolist()[:2] == ["LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "UHOVQNZJYSORNB-UHFFFAOYSA-N"]
    assert table["weight"].tolist()[:2] == pytest.approx([46.07, 78.11], abs=0.01)
    assert table["valid"].tolist() == [True, True, False]
    assert table["index"].tolist() == [0, 1, 2]
    assert table.loc[2, ["smiles", "inchikey", "strain", "nll", "seed"]].isna().all()
    wanted = {"smiles", "inchikey", "formula", "nll", "std_error", "stable", "valid", "strain", "seed", "index"}
    assert wanted <= set(table.columns)


def test_scores_and_what_the_molecules_know_of_themselves() -> None:
    known = Molecule(
        TORN.atomic_numbers, TORN.positions, "", {"nll": -7.5, "nll_std_error": 0.5, "seed": 3, "index": 9}
    )
    table = to_dataframe(known)
    assert table[["nll", "std_error", "seed", "index"]].values.tolist() == [[-7.5, 0.5, 3, 9]]
    scored = to_dataframe([known, TORN], [SimpleNamespace(nll=nll, std_error=1.0) for nll in (-1.0, -2.0)])
    assert scored["nll"].tolist() == [-1.0, -2.0]
    with pytest.raises(StructureError, match="found 1 scores of 2 molecules, expected one for each"):
        to_dataframe([known, TORN], [SimpleNamespace(nll=0.0, std_error=1.0)])


def test_objects_of_rdkit_are_rows_too() -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("CC=O"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    assert enflow.to_dataframe(mol)["inchikey"].tolist() == ["IKHGUXGNUITLKF-UHFFFAOYSA-N"]


def test_a_missing_pandas_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        to_dataframe([TORN])


def test_no_molecules_are_an_empty_table() -> None:
    assert len(to_dataframe([])) == 0
