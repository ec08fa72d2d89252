"""Pictures as PNG: RDKit's drawing, read back by Pillow."""

from io import BytesIO

import numpy as np
from PIL import Image

from enflow.model.chem.molecule import Molecule
from enflow.model.chem.pictures import LEGEND, SIZE, picture_2d, picture_3d

WATER = Molecule([8, 1, 1], [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
RED = np.array([0xE8, 0x19, 0x0D])


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)


def inked(panel: np.ndarray) -> bool:
    return bool((panel < 250).any())


def test_a_picture_has_a_panel_for_each_molecule_in_rows_of_four() -> None:
    for draw in (picture_3d([WATER] * 6, list("abcdef")), picture_2d(["O"] * 6, list("abcdef"))):
        found = pixels(draw)
        assert found.shape == (2 * SIZE, 4 * SIZE, 3)
        panels = found.reshape(2, SIZE, 4, SIZE, 3).swapaxes(1, 2).reshape(8, SIZE, SIZE, 3)
        assert [inked(panel[: SIZE - LEGEND]) for panel in panels] == [True] * 6 + [False] * 2
        assert [inked(panel[SIZE - LEGEND :]) for panel in panels] == [True] * 6 + [False] * 2
    assert pixels(picture_3d([WATER], [""])).shape == (SIZE, SIZE, 3)


def test_a_molecule_without_bonds_has_its_legend_alone() -> None:
    found = pixels(picture_2d([None, "CCO", ""], ["a", "b", "c"])).reshape(SIZE, 3, SIZE, 3).swapaxes(0, 1)
    assert [inked(panel[: SIZE - LEGEND]) for panel in found] == [False, True, False]
    assert all(inked(panel[SIZE - LEGEND :]) for panel in found)


def test_balls_have_the_colours_and_the_distances_of_the_atoms() -> None:
    found = pixels(picture_3d([WATER], [""]))[: SIZE - LEGEND]
    rows, columns = np.nonzero((found == RED).all(axis=2))
    oxygen = np.array([columns.mean(), rows.mean()])
    rows, columns = np.nonzero((found >= 0xF4).all(axis=2) & (found < 0xFF).all(axis=2))
    left, right = (np.array([columns[side].mean(), rows[side].mean()]) for side in (columns < 120, columns > 120))
    lengths = [float(np.linalg.norm(hydrogen - oxygen)) for hydrogen in (left, right)]
    ratio = np.hypot(0.76, 0.6) / 1.52
    assert np.allclose(np.array(lengths) / np.linalg.norm(left - right), ratio, atol=0.05)
