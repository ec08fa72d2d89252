"""The gallery of `--out x.html` and `Accept: text/html`, and what a notebook shows, in a browser without a network."""

from pathlib import Path

import numpy as np
from playwright.sync_api import Browser

from model.chem.bonds import infer_bonds
from model.chem.gallery import write_gallery
from model.chem.molecule import Molecule, Molecules
from tests.page.conftest import PATIENCE_MS, Visit

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.1], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], "water")
MANY = 30
LIVING = """() => [...document.querySelectorAll("canvas")].filter((canvas) => {
  const context = canvas.getContext("webgl2") || canvas.getContext("webgl");
  return context && !context.isContextLost();
}).length"""


def opened(browser: Browser, html: str, place: Path) -> Visit:
    file = place / "page.html"
    file.write_text(html, encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": 800, "height": 600})
    context.set_default_timeout(PATIENCE_MS)
    visit = Visit(context.new_page())
    visit.listen("file:")
    visit.page.goto(file.as_uri())
    return visit


def test_every_molecule_of_a_long_gallery_turns_when_it_is_looked_at(browser: Browser, tmp_path: Path) -> None:
    molecules = [Molecule(WATER.atomic_numbers, WATER.positions * (1 + 0.001 * i)) for i in range(MANY)]
    visit = opened(browser, write_gallery(molecules, [infer_bonds(each) for each in molecules]), tmp_path)
    cards = visit.page.locator(".view")
    for index in (0, MANY - 1, MANY // 2, 0):
        cards.nth(index).scroll_into_view_if_needed()
        cards.nth(index).locator("canvas").wait_for()
        assert 0 < visit.page.evaluate(LIVING) <= 12
    assert cards.locator("svg").count() == MANY
    assert visit.complaints == []
    visit.page.context.close()


def test_a_notebook_shows_molecules_without_a_network(browser: Browser, tmp_path: Path) -> None:
    shown = Molecules([WATER, Molecule(WATER.atomic_numbers, np.flip(WATER.positions, axis=1))])._repr_html_()
    visit = opened(browser, f"<!doctype html><meta charset='utf-8'>{shown}{WATER._repr_html_()}", tmp_path)
    visit.page.wait_for_function("document.querySelectorAll('canvas').length === 3")
    assert visit.page.evaluate(LIVING) == 3
    assert visit.complaints == []
    visit.page.context.close()
