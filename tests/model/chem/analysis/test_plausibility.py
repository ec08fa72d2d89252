"""PoseBusters' checks of molecules whose verdict is known; they are skipped where the package is missing."""

import sys

import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from enflow.model.chem.analysis import plausibility
from enflow.model.chem.analysis.plausibility import check_installed, posebusters_checks
from enflow.model.errors import ConfigError


def ethanol(stretch: float = 1.0) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    mol.GetConformer().SetPositions(stretch * mol.GetConformer().GetPositions())
    return mol


def test_long_bonds_and_missing_bonds_are_found():
    pytest.importorskip("posebusters")
    found = posebusters_checks([ethanol(), ethanol(1.4), None, ethanol()])
    assert (found["all"].count, found["all"].total) == (2, 4)
    assert found["bond_lengths"].count == 2
    assert found["sanitization"].count == 3
    assert posebusters_checks([None])["all"].count == 0


def test_chunks_add_up(monkeypatch):
    pytest.importorskip("posebusters")
    monkeypatch.setattr(plausibility, "CHUNK", 2)
    assert posebusters_checks([ethanol()] * 4 + [ethanol(1.4)])["all"].count == 4


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "posebusters", None)
    monkeypatch.setattr(plausibility, "find_spec", {}.get)
    with pytest.raises(ConfigError, match=r"found no package posebusters; expected the extra"):
        check_installed()
    with pytest.raises(ConfigError, match="posebusters"):
        posebusters_checks([ethanol()])
