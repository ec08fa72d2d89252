"""Molecules as one HTML page without any other file."""

from collections.abc import Sequence
from html import escape

from rdkit import Chem

from enflow.model.chem.bonds import Bonds, to_mol
from enflow.model.chem.molecule import Molecule
from enflow.model.chem.viewer import drawing, library, view

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 1rem }
figure { margin: 0; border: 1px solid #ddd; border-radius: 8px; overflow: hidden }
.view { position: relative; aspect-ratio: 1 }
.view svg, .view > div { position: absolute !important; inset: 0; width: 100%; height: 100% }
figcaption { padding: .5rem .75rem; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .75rem; margin: .25rem 0 0; font-size: 13px }
dd { margin: 0 }
"""


def write_gallery(molecules: Sequence[Molecule], bonds: Sequence[Bonds]) -> str:
    """Return an HTML page with one card per molecule: a view by py3Dmol, formula, SMILES, properties.

    The page contains 3Dmol.js if `make page` has fetched it; otherwise the cards show drawings. Nothing is loaded from
    a network.
    """
    source = library()
    cards = "".join(
        _card(molecule, found, f"molecule{index}", interactive=source is not None)
        for index, (molecule, found) in enumerate(zip(molecules, bonds, strict=True))
    )
    # py3Dmol loads the library unless this promise exists.
    script = f"<script>{source}\n$3Dmolpromise = Promise.resolve()</script>" if source else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Enflow: {len(molecules)} molecules</title><style>{_STYLE}</style>{script}</head>"
        f"<body><h1>{len(molecules)} molecules</h1><main>{cards}</main></body></html>\n"
    )


def _card(molecule: Molecule, bonds: Bonds, name: str, *, interactive: bool) -> str:
    flat = drawing(molecule.atomic_numbers, molecule.positions, label=molecule.formula)
    block = Chem.MolToMolBlock(to_mol(molecule, bonds))  # without a title: no text from outside enters a script
    over = view(block, "sdf", name, "") if interactive else ""
    computed = {"SMILES": bonds.smiles, "bonds": bonds.method or bonds.reason}
    shown = {**computed, **molecule.properties, **computed}
    facts = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(f'{value:.4g}' if isinstance(value, float) else str(value))}</dd>"
        for key, value in shown.items()
        if value is not None
    )
    title = escape(f"{molecule.formula} {molecule.name}".strip())
    return (
        f'<figure><div class="view">{flat}{over}</div>'
        f"<figcaption><strong>{title}</strong><dl>{facts}</dl></figcaption></figure>"
    )
