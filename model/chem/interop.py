"""Molecules as objects of RDKit and ASE, and back."""

from importlib import import_module
from typing import Any

from rdkit import Chem

from enflow.model.chem.bonds import infer_bonds, to_mol
from enflow.model.chem.molecule import Molecule, check_apart
from enflow.model.chem.periodic import cell_of, unwrapped
from enflow.model.errors import StructureError


def to_rdkit(molecule: Molecule) -> Chem.Mol:
    """Return an RDKit molecule with inferred bonds, one conformer, and name and properties as RDKit properties.

    A molecule whose bonds cannot be inferred is returned as bare atoms.
    """
    mol = to_mol(molecule, infer_bonds(molecule))
    if molecule.name:
        mol.SetProp("_Name", molecule.name)
    for key, value in molecule.properties.items():
        _set_property(mol, key, value)
    return mol


def from_rdkit(mol: Any) -> Molecule:
    """Return the atoms of an RDKit molecule at the positions of its first conformer, with name and properties.

    Raises:
        StructureError: the object is no RDKit molecule, has no conformer in three dimensions, or lacks hydrogen atoms.
    """
    if not isinstance(mol, Chem.Mol):
        raise StructureError(f"found a {type(mol).__name__}, expected an RDKit molecule")
    if not mol.GetNumConformers() or not mol.GetConformer().Is3D():
        raise StructureError("found no conformer in three dimensions, expected one; embed the molecule first")
    mol.UpdatePropertyCache(strict=False)
    if missing := sum(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
        raise StructureError(
            f"found {missing} hydrogens without atoms, expected every hydrogen as an atom, as by Chem.AddHs"
        )
    properties = mol.GetPropsAsDict()
    name = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    molecule = Molecule(numbers, mol.GetConformer().GetPositions(), name, properties)
    check_apart(molecule)
    return molecule


def to_ase(molecule: Molecule) -> Any:
    """Return the molecule as `ase.Atoms`, with its cell, its name and properties in `info`.

    Raises:
        ImportError: the package ase is not installed.
    """
    try:
        ase = import_module("ase")
    except ImportError:
        raise ImportError("found no package ase, expected it for this conversion: pip install ase") from None
    info = {**molecule.properties, **({"name": molecule.name} if molecule.name else {})}
    atoms = ase.Atoms(numbers=molecule.atomic_numbers, positions=molecule.positions)
    if found := cell_of(molecule):
        atoms.set_cell(found[0])
        atoms.set_pbc(found[1])
        info = {key: value for key, value in info.items() if key not in ("Lattice", "pbc")}
    atoms.info = info
    return atoms


def from_ase(atoms: Any) -> Molecule:
    """Return `ase.Atoms` as a molecule, its `info` as properties; wrapped over a periodic cell it is unwrapped.

    Raises:
        StructureError: the object has no atomic numbers and positions, or two atoms coincide.
    """
    try:
        numbers, positions, properties = atoms.get_atomic_numbers(), atoms.get_positions(), dict(atoms.info)
        periodic, cell = atoms.get_pbc(), atoms.get_cell()
    except AttributeError:
        raise StructureError(f"found a {type(atoms).__name__}, expected ase.Atoms") from None
    if periodic.any():
        properties["Lattice"] = " ".join(str(float(value)) for vector in cell for value in vector)
        properties["pbc"] = " ".join("FT"[int(axis)] for axis in periodic)
    molecule = Molecule(numbers, positions, str(properties.pop("name", "")), properties)
    check_apart(molecule)
    return unwrapped(molecule)


def _set_property(mol: Chem.Mol, key: str, value: object) -> None:
    match value:
        case bool():
            mol.SetBoolProp(key, value)
        case int() if abs(value) < 2**31:
            mol.SetIntProp(key, value)
        case float():
            mol.SetDoubleProp(key, value)
        case None:
            pass
        case _:
            mol.SetProp(key, str(value))
