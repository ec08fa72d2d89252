"""The order of molecules by a descriptor, their size or their likelihood."""

from enflow.model.chem.analysis.descriptors import NUMBERS
from enflow.model.chem.molecule import Molecule

SORT_KEYS = (*NUMBERS, "n_atoms", "nll")
"""The names by which molecules can be sorted; a minus sign before the name puts the largest first."""


def sort_key(molecule: Molecule, sort: str) -> tuple[bool, float]:
    """Return the key of a molecule in an order; molecules without a value are the last.

    Args:
        molecule: the molecule, with its descriptors and its NLL as properties.
        sort: one of `SORT_KEYS`, with a minus sign or without.
    """
    sign, name = (-1 if sort.startswith("-") else 1), sort.removeprefix("-")
    value = molecule.n_atoms if name == "n_atoms" else molecule.properties.get(name)
    return (False, float(sign * value)) if isinstance(value, int | float) else (True, 0.0)
