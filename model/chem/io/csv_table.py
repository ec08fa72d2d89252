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
    return write_rows([csv_row(*pair) for pair in zip(molecules, bonds, strict=True)])


def write_rows(rows: Sequence[Mapping[str, object]], first: Sequence[str] = ()) -> str:
    """Write rows as CSV; the columns are those of all rows, in the order in which they first occur.

    Args:
        rows: the values by the names of their columns; a column that a row lacks is empty.
        first: columns that come before the others.
    """
    columns = dict.fromkeys([*first, *(name for row in rows for name in row)])
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_inert(name) for name in columns])
    writer.writerows([_inert(row.get(name, "")) for name in columns] for row in rows)
    return text.getvalue()


def csv_row(molecule: Molecule, bonds: Bonds) -> Mapping[str, object]:
    """Return the row of a molecule: its name if it has one, what is computed, and its properties."""
    named = {"name": molecule.name} if molecule.name else {}
    found = {**named, "formula": molecule.formula, "n_atoms": molecule.n_atoms, "smiles": bonds.smiles}
    computed = {**found, "valid": bonds.valid}
    return {**computed, **molecule.properties, **computed}  # these columns first, and not as a file states them


def _inert(value: object) -> object:
    """Return a cell that no spreadsheet executes (OWASP: CSV injection); names and items come from files of others."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


_NUMBER = r"[+-](?:[0-9.]+(?:[eE][+-]?[0-9]+)?|inf|nan)\Z"
_FORMULA = re.compile(rf"(?!{_NUMBER})[=+@\t\r\n-].", re.DOTALL)  # a sign alone, such as the file "-", is none
