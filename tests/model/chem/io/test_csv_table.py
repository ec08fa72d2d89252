"""Molecules as CSV, read back by the csv module of Python."""

import csv
import io

import pytest

from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.io.csv_table import write_csv
from enflow.model.chem.molecule import Molecule

WATER = [8, 1, 1], [[0.0, 0.0, 0.1], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]


def row(name: str, /, **properties: object) -> dict[str, str]:
    molecule = Molecule(*WATER, name, properties)
    (found,) = csv.DictReader(io.StringIO(write_csv([molecule], [infer_bonds(molecule)]), newline=""))
    return found


def test_columns_that_are_computed_are_not_those_of_a_file() -> None:
    stated = {"name": "ice", "formula": "XX", "n_atoms": 77, "smiles": "C", "valid": False, "lab": "north"}
    computed = {"name": "water", "formula": "H2O", "n_atoms": "3", "smiles": "O", "valid": "True"}
    assert row("water", **stated) == computed | {"lab": "north"}
    assert row("", name="ice")["name"] == "ice"


@pytest.mark.parametrize("text", ["=cmd|calc", "+1+2", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "--1", "-1 x", "-1\n"])
def test_text_is_no_formula_of_a_spreadsheet(text: str) -> None:
    found = row(text, note=text, **{text: 1})
    assert (found["name"], found["note"], found[f"'{text}"]) == (f"'{text}", f"'{text}", "1")


@pytest.mark.parametrize(
    "value", [-1.5, -2, "-12.5", "+.5e-3", "-1E+9", float("-inf"), "-inf", "-nan", "-", "a=b", "'=1"]
)
def test_numbers_and_other_text_stay_as_they_are(value: object) -> None:
    assert row("water", note=value)["note"] == str(value)
