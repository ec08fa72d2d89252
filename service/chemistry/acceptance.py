"""Whether a generated molecule is what was asked for, and if not, why."""

from dataclasses import dataclass
from typing import Literal

from enflow.model.chem.bonds import Bonds

Only = Literal["any", "valid", "stable"]


@dataclass(frozen=True)
class Rejection:
    """Why a molecule is not kept: in a word, and in a sentence that is the same for all alike."""

    kind: str
    reason: str


def rejection(only: Only, bonds: Bonds, unstable_atoms: int) -> Rejection | None:
    """What speaks against a molecule, or nothing.

    Args:
        only: what was asked for.
        bonds: as inferred.
        unstable_atoms: how many of its atoms have not their valence by the distance table.
    """
    if only == "valid" and bonds.status != "ok":
        # What follows names the atoms of one molecule.
        return Rejection("not valid", (bonds.reason or "no bonds").partition(";")[0])
    if only == "stable" and unstable_atoms:
        return Rejection("not stable", f"atoms without their valence by the distance table: {unstable_atoms}")
    return None
