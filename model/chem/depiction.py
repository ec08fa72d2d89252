"""Skeletal formulas: drawings of molecules in two dimensions."""

from rdkit import Chem, rdBase
from rdkit.Chem.Draw import rdMolDraw2D

from enflow.model.errors import StructureError

WIDTH, HEIGHT = 320, 240
"""Pixels of a drawing; as SVG it has every size."""

BOND = 28
"""Pixels; the largest length of a bond, so that small molecules are not drawn huge."""


def depict(smiles: str, *, dark: bool = False) -> str:
    """Draw the skeletal formula of a molecule, as SVG on a transparent ground.

    Args:
        smiles: the molecule.
        dark: True gives the colours for a dark ground.

    Raises:
        StructureError: RDKit cannot read the SMILES.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise StructureError("found a SMILES that RDKit cannot read")
    return skeletal_formula(mol, WIDTH, HEIGHT, dark=dark)


def skeletal_formula(mol: Chem.Mol, width: int, height: int, *, dark: bool = False) -> str:
    """Draw the skeletal formula of a molecule of RDKit as SVG of this size, on a transparent ground."""
    drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
    if dark:
        rdMolDraw2D.SetDarkMode(drawer)
    for name, value in (("clearBackground", False), ("fixedBondLength", BOND), ("padding", 0.1)):
        setattr(drawer.drawOptions(), name, value)  # the types of RDKit's stubs are wrong
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol)
    drawer.FinishDrawing()
    return str(drawer.GetDrawingText()).partition("?>")[2].lstrip()  # a page has no place for an XML declaration
