"""Molecules around a fragment on the page; the expected values come from the API and RDKit."""

import json
import re
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect
from rdkit import Chem

from benchmarks.cores import CORES, PLACE
from tests.page.acting import BROKEN, WATER, Open, download, finished, generate, structures, unfold


def grow(page: Page, **fields: str) -> dict[str, Any]:
    """Fill in the form, grow, and return the request."""
    form = page.locator("#grow-form")
    unfold(page, "grow")
    form.get_by_label("Tolerance").select_option("draft")
    for label, value in fields.items():
        form.get_by_label(label.replace("_", " ")).fill(value)
    with page.expect_request("**/sample") as asked:
        form.get_by_role("button", name="Grow").click()
    finished(page, "grow")
    return dict(asked.value.post_data_json)


def grown(page: Page) -> list[str]:
    return page.locator("#grow .card:not([hidden]) .formula").all_text_contents()


def test_grows_what_the_api_grows_around_a_core(visit: Open, api: httpx.Client) -> None:
    page = visit("#grow")
    page.locator("#grow-form select[name=core]").select_option("oxetane")
    request = grow(page, Molecules="3", Atoms_in_all="12", Seed="4", Grow_at_atoms="5")
    assert (request["attach"], request["n_atoms"], request["seed"]) == ([5], 12, 4)
    expected = api.post("/sample", json={**request, "frames": 0}).json()["molecules"]
    page.locator("#grow").get_by_label("Sort").select_option("index")
    assert grown(page) == [molecule["formula"] for molecule in expected]

    fragment = structures(request["fragment"]["data"])[0].GetConformer().GetPositions()
    given = np.delete(fragment, 4, axis=0)  # the hydrogen atom at which it grows
    for mol, molecule in zip(structures(download(page, "Download as XYZ", "grow").decode()), expected, strict=True):
        assert molecule["fragment_atoms"] == len(given)
        assert mol.GetConformer().GetPositions()[: len(given)] == pytest.approx(given, abs=1e-6)
    expect(page.locator("#grow .card .halo")).to_have_count(3 * len(given))
    labels = ["connected" if molecule["connected"] else "in pieces" for molecule in expected]
    assert page.locator("#grow .card .chip:nth-child(2)").all_text_contents() == labels

    again = visit(page.url[page.url.index("#") :])
    finished(again, "grow")
    assert grown(again) == grown(page)
    expect(again.locator("#grow-form").get_by_label("Grow at atoms")).to_have_value("5")


def test_a_click_on_an_atom_chooses_where_it_grows_or_what_is_kept(visit: Open) -> None:
    page = visit("#grow")
    form = page.locator("#grow-form")
    form.locator("select[name=core]").select_option("cyclopropane")

    def click(name: str) -> None:
        label = page.locator("#grow-stage .atom-label", has_text=re.compile(f"^{name}$"))
        label.click(force=True)  # at the middle; it waits for a drawing that is being replaced

    expect(page.locator("#grow-stage .atom-label")).to_have_count(9)
    expect(form.get_by_label("Grow at atoms")).to_have_value("4")  # the first hydrogen atom
    click("H6")
    expect(form.get_by_label("Grow at atoms")).to_have_value("4 6")
    expect(page.locator("#grow-stage .measured")).to_have_count(2)
    click("H4")
    expect(form.get_by_label("Grow at atoms")).to_have_value("6")
    expect(page.locator("#grow-stage .measured")).to_have_count(1)
    form.get_by_label("Click atoms").select_option("keep")
    click("C1")
    expect(form.get_by_label("Keep atoms")).to_have_value("1")
    expect(page.locator("#grow-stage .halo")).to_have_count(1)


def test_a_part_of_a_generated_molecule_is_kept_where_it_is(visit: Open) -> None:
    page = visit()
    generate(page, count=1, atoms="6")
    (parent,) = structures(download(page, "Download as XYZ").decode())
    page.locator("#generate .card .stage").click()
    page.get_by_role("button", name="Keep a part, grow the rest").click()
    expect(page.locator("#grow")).to_be_visible()
    request = grow(page, Molecules="1", Keep_atoms="2 5", Atoms_in_all="7")
    (kept,) = structures(request["fragment"]["data"])
    mine, theirs = ([(a.GetAtomicNum()) for a in mol.GetAtoms()] for mol in (kept, parent))
    assert mine == [theirs[1], theirs[4]]
    assert kept.GetConformer().GetPositions() == pytest.approx(parent.GetConformer().GetPositions()[[1, 4]], abs=1e-9)
    assert request["attach"] is None


def test_what_is_pasted_is_shown_or_refused_in_words(visit: Open) -> None:
    page = visit("#grow")
    page.locator("#grow-sources").evaluate("details => { details.open = true; }")
    text = page.get_by_label("Fragment as XYZ or SDF")
    text.fill(WATER)
    text.blur()
    expect(page.locator("#grow-stage .atom-label")).to_have_text(["O1", "H2", "H3"])
    text.fill(BROKEN)
    text.blur()
    expect(page.locator("#grow-problem")).to_contain_text("cannot be read")


def test_without_a_model_the_page_says_how_to_get_one(visit: Open) -> None:
    def without(route: Route) -> None:
        answer = route.fetch().json()
        answer["models"] = [card for card in answer["models"] if card["kind"] != "fragment"]
        route.fulfill(body=json.dumps(answer), content_type="application/json")

    page = visit()
    page.route("**/models", without)
    page.reload()
    page.locator("nav a[href='#grow']").click()
    expect(page.locator("#grow-missing")).to_contain_text("qm9-fragment")
    expect(page.locator("#grow-form")).to_be_hidden()


def test_the_cores_are_what_they_are_called() -> None:
    cores = json.loads(PLACE.read_text())
    assert list(cores) == list(CORES)
    for name, sdf in cores.items():
        mol = Chem.MolFromMolBlock(sdf)
        assert Chem.MolToSmiles(mol) == Chem.CanonSmiles(CORES[name])
        assert mol.GetConformer().Is3D()
