"""The gallery of `--out x.html` and `Accept: text/html`, and molecules in a notebook, without a network."""

from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page

from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.io.gallery import write_gallery
from enflow.model.chem.molecule import Molecule, Molecules
from tests.page.conftest import PATIENCE_MS, Visit

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.1], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], "water")
MANY = 20
"""More molecules than the about sixteen WebGL contexts of a browser: 3Dmol.js must share one."""


def opened(browser: Browser, html: str, place: Path) -> Visit:
    file = place / "page.html"
    file.write_text(html, encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": 800, "height": 600})
    context.set_default_timeout(PATIENCE_MS)
    visit = Visit(context.new_page())
    visit.listen("file:")
    visit.page.goto(file.as_uri())
    return visit


def drawn(page: Page, count: int) -> None:
    """Wait until so many canvases, and no more, show something that is not white."""
    page.wait_for_function(
        """(count) => {
          const all = [...document.querySelectorAll("canvas")];
          const coloured = all.filter((canvas) => {
            const copy = document.createElement("canvas");
            [copy.width, copy.height] = [40, 40];
            const pen = copy.getContext("2d");
            pen.drawImage(canvas, 0, 0, 40, 40);
            return pen.getImageData(0, 0, 40, 40).data.some((value, i) => i % 4 < 3 && value > 0 && value < 200);
          });
          return all.length === count && coloured.length === count;
        }""",
        arg=count,
        polling=500,  # each look draws every canvas: at every frame of the browser it takes longer than the pictures
    )


def test_every_molecule_of_a_long_gallery_is_drawn(browser: Browser, tmp_path: Path) -> None:
    visit = opened(browser, write_gallery([WATER] * MANY, [infer_bonds(WATER)] * MANY), tmp_path)
    drawn(visit.page, MANY)
    assert visit.complaints == []
    visit.page.context.close()


def test_a_notebook_shows_molecules_without_a_network(browser: Browser, tmp_path: Path) -> None:
    shown = Molecules([WATER, Molecule(WATER.atomic_numbers, np.flip(WATER.positions, axis=1))])._repr_html_()
    visit = opened(browser, f"<!doctype html><meta charset='utf-8'>{shown}{WATER._repr_html_()}", tmp_path)
    drawn(visit.page, 3)
    assert visit.complaints == []
    visit.page.context.close()
