"""The fragment of a /sample request: read, checked, and opened where it grows."""

from collections.abc import Sequence

from enflow.model.chem.connectivity import opened
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import EnflowError, StructureError
from enflow.service.handlers.served_model import ServedModel
from enflow.service.problems import At, Problem
from enflow.service.protocol.requests import Size, Structure, typical_size
from enflow.service.schemas.requests import SampleRequest

DATA, ATTACH, N_ATOMS = "/fragment/data", "/attach", "/n_atoms"
"""The places of errors in the request."""


async def read_fragment(served: ServedModel, request: SampleRequest) -> Structure | None:
    """Return the fragment of a request without the hydrogen atoms in whose places it grows; None without one.

    Raises:
        Problem: it cannot be read, is not one structure that the model knows, has no such atoms, or leaves no place.
    """
    if request.fragment is None:
        return None
    try:
        found = await served.chemistry.read(request.fragment.data.encode(), request.fragment.format, open_bonds=True)
    except StructureError as error:
        raise _problem(error, DATA) from None
    whole = _only(served, found)
    try:
        fragment = opened(whole, request.attach)
    except StructureError as error:
        raise _problem(error, ATTACH) from None
    check_place(fragment, request.sizes, served.limits.max_atoms)
    return Structure(fragment.atomic_numbers, fragment.positions)


def check_place(fragment: Molecule, sizes: Sequence[Size], largest: int) -> None:
    """Check that there is a place for another atom in every molecule.

    Args:
        fragment: the atoms that stay.
        sizes: the number of all atoms of each molecule; a range or None where it is drawn.
        largest: the largest number of atoms of a molecule.

    Raises:
        Problem: a molecule has no more atoms than the fragment.
    """
    given = fragment.n_atoms
    if given >= largest:
        raise _problem(f"found {given} atoms that stay, expected at most {largest - 1}", DATA)
    smallest = min((typical_size(size, largest) for size in sizes), default=largest)
    if smallest <= given:
        expected = f"expected more than the {given} of the fragment that stay"
        raise _problem(f"found {smallest} atoms in all, {expected}", N_ATOMS)


def _only(served: ServedModel, found: Sequence[Molecule | StructureError]) -> Molecule:
    if len(found) != 1:
        raise _problem(f"found {len(found)} structures, expected one", DATA)
    (structure,) = found
    if isinstance(structure, StructureError):
        raise _problem(structure, DATA)
    try:
        return served.prepare_structure(structure)
    except EnflowError as error:
        raise _problem(error, DATA) from None


def _problem(error: EnflowError | str, place: str) -> Problem:
    return Problem("invalid", f"fragment: {error}", [At(place, str(error))])
