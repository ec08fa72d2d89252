"""Strain: the energy of a geometry above the nearest minimum of a force field."""

import math
from typing import Literal

from rdkit import rdBase
from rdkit.Chem import rdForceFieldHelpers

from enflow.model.chem.bonds import Bonds, to_mol
from enflow.model.chem.molecule import Molecule

MAX_STEPS = 1_000
"""Steps of the minimization."""


Variant = Literal["MMFF94", "MMFF94s"]
"""MMFF94 (Halgren 1996), or MMFF94s (Halgren 1999) with planar nitrogen atoms, as crystals have them."""


def strain(molecule: Molecule, bonds: Bonds, variant: Variant = "MMFF94") -> float | None:
    """Return E(geometry) - E(relaxed) in kcal/mol.

    Args:
        molecule: the geometry.
        bonds: bonds of the geometry.
        variant: the force field.

    Returns:
        The strain; None without bonds or parameters, or where the minimization does not converge.
    """
    if bonds.status != "ok":
        return None
    mol = to_mol(molecule, bonds)
    with rdBase.BlockLogs():
        parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant=variant)
        if parameters is None:
            return None
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, parameters)
        before = field.CalcEnergy()
        converged = field.Minimize(maxIts=MAX_STEPS) == 0
        energy = float(before - field.CalcEnergy())
    return energy if converged and math.isfinite(energy) else None
