"""Formulas are read as RDKit writes them; the refusal of another text quotes it."""

import pytest
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from enflow.model.chem.elements import QM9
from enflow.model.chem.formula import parse_formula
from enflow.model.errors import StructureError, VocabularyError


@pytest.mark.parametrize("smiles", ["C", "CCO", "C1CC1C#N", "O=C1OCC2CC12", "FC(F)(F)C#N", "O"])
def test_counts_are_those_of_the_molecule(smiles: str) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    assert parse_formula(CalcMolFormula(mol), QM9) == tuple(map(numbers.count, QM9.atomic_numbers))


@pytest.mark.parametrize("formula", ["", "c6h6", "C7H10O2 ", "C-1", "C0", "H2(O)", "C１", "7C", "C99999"])
def test_what_is_no_formula_is_refused(formula: str) -> None:
    with pytest.raises(StructureError, match="found formula"):
        parse_formula(formula, QM9)


def test_elements_and_sizes_that_the_model_does_not_know() -> None:
    with pytest.raises(VocabularyError, match="found element Cl, expected one of H, C"):
        parse_formula("CH3Cl", QM9)
    with pytest.raises(VocabularyError, match="found 62 atoms in C20H42, expected at most 29"):
        parse_formula("C20H42", QM9)
