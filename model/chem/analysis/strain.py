"""Strain: the energy of a geometry above the nearest minimum of a force field."""

from rdkit import rdBase
from rdkit.Chem import rdForceFieldHelpers

from enflow.model.chem.bonds import Bonds, to_mol
from enflow.model.chem.molecule import Molecule

MAX_STEPS = 1_000
"""Steps of the minimization."""


def strain(molecule: Molecule, bonds: Bonds) -> float | None:
    """Return E(geometry) - E(relaxed) in kcal/mol by MMFF94 (Halgren 1996).

    Args:
        molecule: the geometry.
        bonds: bonds of the geometry.

    Returns:
        The strain; None without bonds or parameters, or where the minimization does not converge.
    """
    if bonds.status != "ok":
        return None
    mol = to_mol(molecule, bonds)
    with rdBase.BlockLogs():
        parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        if parameters is None:
            return None
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, parameters)
        before = field.CalcEnergy()
        converged = field.Minimize(maxIts=MAX_STEPS) == 0
    return before - field.CalcEnergy() if converged else None
