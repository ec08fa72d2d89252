"""Molecules as a notebook shows them: in 3D and as structural formulas, with the order of each bond."""

from collections.abc import Sequence
from html import escape
from uuid import uuid4

from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor

from enflow.model.chem.bonds import Bonds, infer_bonds, to_mol
from enflow.model.chem.depiction import skeletal_formula
from enflow.model.chem.molecule import Molecule
from enflow.model.chem.viewer import drawing, library_address, view

MOST_VIEWS = 12
"""Interactive views in one list; a browser keeps about sixteen WebGL contexts."""

MOST_CARDS = 100
"""Molecules of a list that are shown."""


def molecule_html(molecule: Molecule) -> str:
    """Return a molecule as HTML: an interactive view and its structural formula."""
    return _row([_card(molecule, 320, library_address(), interactive=True)])


def molecules_html(molecules: Sequence[Molecule]) -> str:
    """Return molecules side by side as HTML: the first with interactive views, the others as formulas alone."""
    cards = [
        # The first view loads 3Dmol.js and the others wait for it, so that half a megabyte is sent once.
        _card(molecule, 200, "" if index else library_address(), interactive=index < MOST_VIEWS)
        for index, molecule in enumerate(molecules[:MOST_CARDS])
    ]
    more = [f"<div>and {len(molecules) - MOST_CARDS} more</div>"] if len(molecules) > MOST_CARDS else []
    return _row(cards + more)


def formula_svg(molecule: Molecule, bonds: Bonds, size: int) -> str:
    """Return the structural formula of a molecule as SVG; its atoms in space where no bonds were found."""
    if bonds.status != "ok":
        return drawing(molecule.atomic_numbers, molecule.positions, size, molecule.formula)
    with rdBase.BlockLogs():
        mol = Chem.RemoveHs(to_mol(molecule, bonds))
        rdDepictor.Compute2DCoords(mol)
    return skeletal_formula(mol, size, size)


def _row(cards: Sequence[str]) -> str:
    return f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{"".join(cards)}</div>'


def _card(molecule: Molecule, size: int, address: str | None, *, interactive: bool) -> str:
    bonds = infer_bonds(molecule)
    solid = _view(molecule, bonds, size, address) if interactive else ""
    text = escape(f"{molecule.formula} {bonds.smiles or '(no bonds)'}")
    caption = f'<div style="max-width: {size}px; overflow-wrap: anywhere">{text}</div>'
    return f"<div>{solid}{formula_svg(molecule, bonds, size)}{caption}</div>"


def _view(molecule: Molecule, bonds: Bonds, size: int, address: str | None) -> str:
    """Return the interactive view over a drawing, which stays visible where the script cannot load."""
    # Without its name: no text from outside enters a script.
    block = Chem.MolToMolBlock(to_mol(molecule, bonds))
    over = view(block, "sdf", f"molecule{uuid4().hex}", address)
    flat = drawing(molecule.atomic_numbers, molecule.positions, label=molecule.formula)
    style = "position: absolute; inset: 0; width: 100%; height: 100%"
    layers = "".join(f'<div style="{style}">{layer}</div>' for layer in (flat, over))
    return f'<div style="position: relative; width: {size}px; height: {size}px">{layers}</div>'
