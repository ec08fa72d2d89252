"""A table of molecules as CSV (RFC 4180): a line each, without positions."""

import csv
import io
from collections.abc import Mapping, Sequence

from enflow.model.chem.bonds import Bonds
from enflow.model.chem.molecule import Molecule


def write_csv(molecules: Sequence[Molecule], bonds: Sequence[Bonds]) -> str:
    """Write molecules as CSV: formula, number of atoms, SMILES, validity, and a column for each property.

    A value that a molecule lacks is empty.
    """
    rows = [_row(*pair) for pair in zip(molecules, bonds, strict=True)]
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(molecule: Molecule, bonds: Bonds) -> Mapping[str, object]:
    named = {"name": molecule.name} if molecule.name else {}
    found = {"formula": molecule.formula, "n_atoms": molecule.n_atoms, "smiles": bonds.smiles}
    return {**named, **found, "valid": bonds.valid, **molecule.properties}
