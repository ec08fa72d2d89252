"""SMILES: molecules whose geometry RDKit makes."""

from collections.abc import Iterator

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from enflow.model.chem.io.text import Line, Lines, ReadLimits
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError

SEED = 0xE2F
"""Seed of the embedding: the same SMILES gives the same geometry."""

EMBED_S = 5
"""Seconds for the embedding of one molecule. One of 29 atoms takes a tenth of a second; strained rings of a hundred
atoms would be tried for minutes."""


def read_smiles(text: str, limits: ReadLimits) -> Iterator[Molecule | StructureError]:
    """Return the molecules of a text with one SMILES per line and an optional name after it.

    Hydrogen atoms are added. The geometry is the first one of ETKDG (Riniker and Landrum, J. Chem. Inf. Model. 55,
    2562 (2015)), relaxed by MMFF94. It is near the geometry of QM9, which was relaxed by B3LYP, but not the same.

    Raises:
        StructureError: the text has more records than the limit.
    """
    lines = (line for line in Lines(text) if line.text.strip())
    for index, line in enumerate(lines):
        if index == limits.max_records:
            raise line.error(f"found more than {limits.max_records} structures, expected at most so many")
        try:
            with rdBase.BlockLogs():
                yield _embedded(line, min(limits.max_atoms, limits.max_embedded_atoms))
        except StructureError as error:
            yield StructureError(error.message, line=line.number, column=error.column, index=index)


def _embedded(line: Line, most: int) -> Molecule:
    smiles, *name = line.tokens()
    # A very long SMILES has too many atoms: it is refused before it is parsed.
    mol = Chem.MolFromSmiles(smiles.text) if len(smiles.text) <= 20 * most else None
    if mol is None:
        raise smiles.error("a SMILES that RDKit can read")
    whole = Chem.AddHs(mol)
    if not 1 <= whole.GetNumAtoms() <= most:
        raise line.error(f"found {whole.GetNumAtoms()} atoms with hydrogen, expected 1 to {most}")
    if any(atom.GetAtomicNum() == 0 for atom in whole.GetAtoms()):
        raise line.error("found an atom without an element, such as *, expected elements only")
    if not _has_geometry(whole):
        raise line.error("found no geometry for this SMILES; send the structure as XYZ or SDF")
    numbers = [atom.GetAtomicNum() for atom in whole.GetAtoms()]
    return Molecule(numbers, whole.GetConformer().GetPositions(), " ".join(token.text for token in name))


def _has_geometry(mol: Chem.Mol) -> bool:
    """Embed and relax a molecule; return True where that was possible."""
    try:
        if rdDistGeom.EmbedMolecule(mol, _embedding()) != 0:
            return False
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=2000)
    except (RuntimeError, ValueError):  # RDKit's own checks, for valences that it does not know
        return False
    return True


def _embedding() -> rdDistGeom.EmbedParameters:
    parameters = rdDistGeom.ETKDGv2()
    for name, value in (("maxIterations", 50), ("randomSeed", SEED), ("timeout", EMBED_S)):
        setattr(parameters, name, value)  # the types of RDKit's stubs are wrong
    return parameters
