"""The conditions on a generated molecule, and the reason why one is not kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from enflow.model.chem.analysis.descriptors import Bounds, MoleculeDescriptors, outside
from enflow.model.chem.bonds import Bonds

Only = Literal["any", "valid", "stable", "connected"]


@dataclass(frozen=True)
class Rejection:
    """The reason why a molecule is not kept: its kind, and a sentence that many molecules share."""

    kind: str
    reason: str


DUPLICATE = Rejection("duplicate", "the SMILES of a molecule with a lower index")


def rejection(
    only: Only,
    where: Mapping[str, Bounds | bool],
    bonds: Bonds,
    unstable_atoms: int,
    descriptors: MoleculeDescriptors | None,
) -> Rejection | None:
    """Return the reason why a molecule is not kept; None where it is.

    Args:
        only: keep valid molecules, stable ones, or valid ones in one piece.
        where: bounds of descriptors by name; a molecule without bonds is outside of all.
        bonds: the bonds of the molecule.
        unstable_atoms: the number of atoms without their valence by the table of bond lengths.
        descriptors: the descriptors; needed for bounds.
    """
    if bonds.status != "ok" and (only in ("valid", "connected") or where):
        # The part after the semicolon names the atoms of one molecule.
        return Rejection("not valid", (bonds.reason or "no bonds").partition(";")[0])
    if only == "connected" and bonds.fragments != 1:
        return Rejection("not connected", f"the bonds make {bonds.fragments} pieces")
    if only == "stable" and unstable_atoms:
        return Rejection("not stable", f"atoms without their valence by the distance table: {unstable_atoms}")
    if where and descriptors is None:
        return Rejection("out of bounds", "properties not known")
    reason = outside(descriptors, where) if descriptors else None
    return Rejection("out of bounds", reason) if reason else None
