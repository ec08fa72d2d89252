"""Pictures of molecules as PNG, for viewers that show neither SVG nor a page: structural formulas, balls and sticks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from rdkit import Chem
from rdkit.Chem.Draw.rdMolDraw2D import MolDraw2DCairo
from rdkit.Geometry import Point2D

from enflow.model.chem.elements import STABILITY_TABLE
from enflow.model.chem.molecule import Molecule
from enflow.model.chem.viewer import BALL, COLOURS, HYDROGEN, OTHER_COLOUR, STICK, flattest_view

SIZE, COLUMNS = 240, 4
"""Pixels of a molecule, and molecules in a row."""

LEGEND = 24
"""Pixels of a legend."""


def picture_2d(smiles: Sequence[str | None], legends: Sequence[str]) -> bytes:
    """Return the structural formulas of molecules as one PNG; a molecule without SMILES has its legend alone."""
    canvas = _canvas(len(legends))
    options: Any = canvas.drawOptions()
    options.padding = 1.2 * LEGEND / SIZE
    canvas.DrawMolecules([Chem.MolFromSmiles(each or "") for each in smiles])
    return _png(canvas, legends)


def picture_3d(molecules: Sequence[Molecule], legends: Sequence[str]) -> bytes:
    """Return molecules as balls and sticks in one PNG, seen along their shortest axes, with bonds by distance."""
    canvas = _canvas(len(legends))
    canvas.ClearDrawing()
    for place, molecule in enumerate(molecules):
        _draw_balls_and_sticks(canvas, molecule, _corner(place))
    return _png(canvas, legends)


def _draw_balls_and_sticks(canvas: MolDraw2DCairo, molecule: Molecule, corner: Float64[np.ndarray, "2"]) -> None:
    seen = flattest_view(molecule.positions)
    unit = (SIZE - LEGEND) / (2 * max(1.0, float(np.abs(seen[:, :2]).max()) + 0.5))  # pixels of an angstrom
    at = corner + np.array([SIZE / 2, (SIZE - LEGEND) / 2]) + unit * seen[:, :2]
    bonds = np.argwhere(np.triu(STABILITY_TABLE.orders(molecule.atomic_numbers, molecule.positions)))
    sticks = [(min(seen[i, 2], seen[j, 2]) - 0.01, i, j) for i, j in bonds.tolist()]
    balls = [(depth, i, i) for i, depth in enumerate(seen[:, 2].tolist())]
    for _, i, j in sorted(sticks + balls):
        if i != j:
            canvas.SetColour((0.6, 0.6, 0.6))
            canvas.SetLineWidth(STICK * unit)
            canvas.DrawLine(_point(at[i]), _point(at[j]), True)
        else:
            z = int(molecule.atomic_numbers[i])
            radius = unit * (HYDROGEN if z == 1 else BALL)
            _draw_ball(canvas, at[i], radius, COLOURS.get(z, OTHER_COLOUR))


def _draw_ball(canvas: MolDraw2DCairo, centre: Float64[np.ndarray, "2"], radius: float, colour: str) -> None:
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    for fill, rgb in ((True, (red, green, blue)), (False, (0.2, 0.2, 0.2))):
        canvas.SetFillPolys(fill)
        canvas.SetLineWidth(1)
        canvas.SetColour(rgb)
        canvas.DrawEllipse(_point(centre - radius), _point(centre + radius), True)


def _canvas(n_molecules: int) -> MolDraw2DCairo:
    columns, rows = min(COLUMNS, n_molecules), math.ceil(n_molecules / COLUMNS)
    return MolDraw2DCairo(columns * SIZE, rows * SIZE, SIZE, SIZE)


def _corner(place: int) -> Float64[np.ndarray, "2"]:
    row, column = divmod(place, COLUMNS)
    return np.array([column * SIZE, row * SIZE], dtype=float)


def _point(place: Float64[np.ndarray, "2"]) -> Point2D:
    return Point2D(*place.tolist())


def _png(canvas: MolDraw2DCairo, legends: Sequence[str]) -> bytes:
    canvas.SetOffset(0, 0)
    canvas.SetColour((0.0, 0.0, 0.0))
    canvas.SetFontSize(15)
    for place, legend in enumerate(legends):
        canvas.DrawString(legend, _point(_corner(place) + np.array([SIZE / 2, SIZE - LEGEND / 2])), 0, True)
    canvas.FinishDrawing()
    return bytes(canvas.GetDrawingText())
