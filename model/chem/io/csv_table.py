"""A table of molecules as CSV (RFC 4180): a line each, without positions."""

import csv
import io
import re
from collections.abc import Mapping, Sequence

from enflow.model.chem.bonds import Bonds
from enflow.model.chem.molecule import Molecule


def write_csv(molecules: Sequence[Molecule], bonds: Sequence[Bonds]) -> str:
    """Write molecules as CSV: formula, number of atoms, SMILES, validity, and a column for each property.

    A value that a molecule lacks is empty. Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    rows = [_row(*pair) for pair in zip(molecules, bonds, strict=True)]
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_inert(name) for name in columns])
    writer.writerows([_inert(row.get(name, "")) for name in columns] for row in rows)
    return text.getvalue()


def _row(molecule: Molecule, bonds: Bonds) -> Mapping[str, object]:
    named = {"name": molecule.name} if molecule.name else {}
    found = {**named, "formula": molecule.formula, "n_atoms": molecule.n_atoms, "smiles": bonds.smiles}
    computed = {**found, "valid": bonds.valid}
    return {**computed, **molecule.properties, **computed}  # these columns first, and not as a file states them


def _inert(value: object) -> object:
    """Return a cell that no spreadsheet executes (OWASP: CSV injection); names and items come from files of others."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


_NUMBER = r"[+-](?:[0-9.]+(?:[eE][+-]?[0-9]+)?|inf|nan)\Z"
_FORMULA = re.compile(rf"(?!{_NUMBER})[=+@\t\r\n-].", re.DOTALL)  # a sign alone, such as the file "-", is none
