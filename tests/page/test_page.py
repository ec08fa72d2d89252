"""The page, used by a browser; the expected values come from the API, RDKit, zipfile and axe."""

import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect
from rdkit import Chem
from rdkit.Chem import rdMolTransforms

from tests.page.acting import (
    BROKEN,
    ESTIMATE,
    ETHANOL_FORMULA,
    SECTIONS,
    WATER,
    Open,
    download,
    eventually,
    finished,
    formulas,
    numbers,
    received,
    scores,
    structures,
    unfold,
)
from tests.page.serving import WEB


def test_sdf_carries_the_bonds(visit: Open) -> None:
    """A walk from ethanol to ethanol returns ethanol, which has bonds with any weights."""
    page = visit("#explore")
    for name in ("A", "B"):
        page.get_by_label(f"Example for {name}").select_option(label="ethanol")
    page.get_by_label("Steps from A to B").fill("3")
    page.get_by_role("button", name="Interpolate").click()
    expect(page.locator("#explore .card .formula")).to_have_count(3)
    sdf = download(page, "Download as SDF", "explore")
    read = [mol for mol in Chem.ForwardSDMolSupplier(io.BytesIO(sdf), removeHs=False) if mol]
    assert "CCO" in {Chem.MolToSmiles(Chem.RemoveHs(mol)) for mol in read}
    page.locator("#explore .card .stage").first.click()
    expect(page.get_by_role("img", name="Skeletal formula of CCO")).to_be_visible()
    page.wait_for_function("() => document.querySelector('dialog img').naturalWidth > 0")


def test_watches_the_flow(visit: Open, api: httpx.Client) -> None:
    page = visit("#flow", webgl=True, reduced_motion="reduce")
    form = page.locator("#flow-form")
    form.get_by_role("textbox", name="Atoms").fill("6")
    unfold(page, "flow")
    form.get_by_label("Seed").fill("3")
    molecule = received(page, form.get_by_role("button", name="Let it flow").click)
    made = molecule["frames"]
    asked = {"n_atoms": 6, "seed": 3, "frames": 60}
    (expected,) = api.post("/sample", json=asked).json()["molecules"]
    assert [frame["t"] for frame in made] == [frame["t"] for frame in expected["frames"]]
    np.testing.assert_allclose(made[-1]["positions"], expected["frames"][-1]["positions"], atol=1e-3)
    expect(page.locator("#flow-play")).to_be_enabled()
    expect(page.locator("#flow-t")).to_have_text("1.00")  # no animation where motion is not wanted
    expect(page.locator("#flow-nfe")).to_have_text(str(made[-1]["nfe"]))
    finished(page, "flow")
    (score,) = scores(api, [molecule["xyz"]], seed=3, **ESTIMATE, probes=8)
    path = score["path"]
    expect(page.locator("#flow-charts svg").first).to_have_attribute("aria-label", re.compile("log-density"))
    assert numbers(page, "#flow-density") == [pytest.approx(path[-1][1], abs=0.06)]
    arrived = page.locator("#flow-stage").screenshot()
    page.locator("#flow-slider").press("Home")
    expect(page.locator("#flow-t")).to_have_text("0.00")
    expect(page.locator("#flow-nfe")).to_have_text(str(made[0]["nfe"]))
    assert numbers(page, "#flow-density") == [pytest.approx(path[0][1], abs=0.06)]
    eventually(page, lambda: page.locator("#flow-stage").screenshot() != arrived)


def test_a_molecule_flows_again_as_it_was_asked_for(visit: Open) -> None:
    page = visit("#generate?count=1&seed=1&tolerance=draft&refinements=1&atoms=5&nll=none")
    finished(page)
    page.goto(page.url.partition("#")[0] + "#flow?seed=3&index=0&tolerance=draft&refinements=2&temperature=0.9&atoms=6")
    expect(page.locator("#flow-open")).to_be_enabled()
    page.locator("#flow-open").click()
    with page.expect_request("**/sample") as asked:
        page.get_by_role("button", name="Watch it flow").click()
    found = asked.value.post_data_json
    assert {
        "n_atoms": 6,
        "seed": 3,
        "tolerance": "draft",
        "refinements": 2,
        "temperature": 0.9,
    }.items() <= found.items()


def test_scores_the_good_and_explains_the_bad(visit: Open, api: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "water.xyz").write_text(WATER)
    (tmp_path / "<b>broken.xyz").write_text(BROKEN)
    page = visit("#score")
    title = page.title()
    page.locator("#score-file").set_input_files([tmp_path / "water.xyz", tmp_path / "<b>broken.xyz"])
    results = page.locator("#score-results tbody tr")
    expect(results).to_have_count(2)
    finished(page, "score")

    body = {
        "structures": [{"format": "xyz", "data": WATER}],
        "divergence": "hutchinson",
        "seed": 0,
        "tolerance": "draft",
    }
    expected = api.post("/likelihood", json=body).json()["results"][0]
    assert numbers(page, "#score-results .nll b") == [pytest.approx(expected["nll"], abs=0.06)]
    *parts, whole = numbers(page, "#score-results .parts dd")
    assert sum(parts) == pytest.approx(expected["nll"], abs=0.3)
    assert whole == pytest.approx(expected["nll"], abs=0.06)
    error = page.locator("#score-results .nll b").inner_text().split("± ")[1]
    assert float(error) == pytest.approx(expected["std_error"], abs=0.06)

    expect(results.nth(1)).to_contain_text("line 4, column 5")
    expect(results.nth(1)).to_contain_text("<b>broken.xyz")
    results.nth(1).click()
    expect(page.locator("#score-results .problem")).to_contain_text("<b>broken.xyz")
    assert page.locator("#score-results pre").inner_text() == "H 0 zero -0.47\n    ^"
    assert page.locator("main img").count() == 0
    assert page.title() == title


def test_knows_which_file_a_structure_came_from(visit: Open, tmp_path: Path) -> None:
    (tmp_path / "two.xyz").write_text(WATER + BROKEN.replace("<img src=x onerror=document.title='owned'>", "bad"))
    (tmp_path / "one.xyz").write_text(WATER)
    (tmp_path / "none.xyz").write_text("three\n\n")
    page = visit("#score")
    page.locator("#score-file").set_input_files([tmp_path / f"{name}.xyz" for name in ("two", "one", "none")])
    finished(page, "score")
    said = page.locator("#score-results tbody tr").all_inner_texts()
    names = ("two.xyz, structure 1", "one.xyz", "two.xyz, structure 2", "none.xyz")  # those without a score are last
    assert [name in text for name, text in zip(names, said, strict=True)] == [True] * 4
    assert "line 9" in said[2]
    expect(page.locator("#score-note")).to_have_text("2 structures scored, 2 could not be")


def test_interpolates_and_varies(visit: Open) -> None:
    page = visit("#explore")
    page.get_by_label("Example for A").select_option(label="ethanol")
    page.get_by_label("Example for B").select_option(label="dimethyl ether")
    page.get_by_label("Steps from A to B").fill("3")
    page.get_by_role("button", name="Interpolate").click()
    headline = page.locator("#explore-facts .formula")
    expect(headline).to_have_text(ETHANOL_FORMULA)
    expect(page.locator("#explore-facts .smiles")).to_have_text("CCO")
    slider = page.locator("#explore-slider")
    slider.focus()
    slider.press("End")
    expect(page.locator("#explore-facts .smiles")).to_have_text("COC")

    page.get_by_label("Variations of A").fill("2")
    page.get_by_role("button", name="Vary").click()
    expect(page.locator("#explore-stage")).to_be_hidden()
    expect(page.locator("#explore .card .formula")).to_have_count(2)


def test_without_webgl_there_are_flat_pictures(visit: Open) -> None:
    page = visit("#explore")
    slot = page.locator("#explore .slot").first
    expect(slot.locator("circle")).to_have_count(15)  # diethyl ether
    before = slot.locator("circle").first.get_attribute("cx")
    slot.locator(".stage").press("ArrowRight")
    expect(slot.locator("circle").first).not_to_have_attribute("cx", before or "")


def test_errors_of_a_request_are_shown(visit: Open) -> None:
    page = visit("#explore")
    page.get_by_label("Example for B").select_option(label="benzene")
    page.get_by_role("button", name="Interpolate").click()
    expect(page.get_by_role("alert")).to_contain_text("15 and 12 atoms")


def test_a_request_that_a_full_queue_refuses_is_sent_again_when_it_is_due(visit: Open) -> None:
    page, waits = visit("#score"), ["1", None, "120"]

    def answer(route: Route) -> None:
        if wait := waits.pop(0):
            body = json.dumps({"title": "Too much work", "detail": f"the queue is full; repeat it in {wait} s"})
            route.fulfill(status=429, headers={"Retry-After": wait}, content_type="application/problem+json", body=body)
        else:
            route.continue_()

    page.route("**/likelihood*", answer)
    page.locator("#score-form textarea").fill(WATER)
    page.get_by_role("button", name="Score", exact=True).click()
    expect(page.locator("#score-note")).to_have_text("1 structure scored")
    page.get_by_role("button", name="Score", exact=True).click()  # the user decides about a wait of a minute
    expect(page.locator("#score-results")).to_contain_text("the queue is full; repeat it in 120 s")
    assert waits == []


def test_shows_the_card_and_the_load(visit: Open, api: httpx.Client) -> None:
    page = visit("#model")
    card = api.get("/models").json()["models"][0]
    expect(page.locator("#model-card")).to_contain_text(card["weights_sha256"])
    expect(page.locator("#model-results tbody tr").first).to_contain_text(card["name"])
    expect(page.locator("#status")).to_have_attribute("data-ready", "true")
    expect(page.locator("#model-health")).to_contain_text("cpu")


def test_works_by_keyboard(visit: Open) -> None:
    page = visit()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    for section in ("Generate", "Grow", "Watch"):
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name=section)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#flow")).to_be_visible()
    expect(page.get_by_role("link", name="Watch")).to_have_attribute("aria-current", "page")


def test_a_molecule_opens_and_closes_by_keyboard(visit: Open) -> None:
    page = visit("#generate?seed=1&count=1&atoms=5&tolerance=draft&nll=none")
    finished(page)
    stage = page.locator(".card .stage")
    stage.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text(formulas(page)[0])
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(stage).to_be_focused()


def test_measures_distances_and_angles(visit: Open) -> None:
    """Atoms are named by their numbers or clicked; RDKit measures the same molecule."""
    page = visit("#generate?seed=1&count=1&atoms=6&tolerance=draft&nll=none")
    finished(page)
    (mol,) = structures(download(page, "Download as XYZ").decode())
    conformer = mol.GetConformer()
    page.locator(".card .stage").click()
    dialog = page.get_by_role("dialog")
    assert all(text.strip() for text in dialog.locator("dd").all_inner_texts())
    reading = dialog.locator(".reading")
    measured = {
        "1 2": f"{rdMolTransforms.GetBondLength(conformer, 0, 1):.3f} Å",
        "1 2 3": f"{rdMolTransforms.GetAngleDeg(conformer, 0, 1, 2):.1f}°",
        "1 2 3 4": f"{rdMolTransforms.GetDihedralDeg(conformer, 0, 1, 2, 3):.1f}°".replace("-", "−"),
    }
    for atoms, value in measured.items():
        dialog.get_by_label("Measure atoms").fill(atoms)
        expect(reading).to_contain_text(f" {value}")
    dialog.locator(".stage").click(position={"x": 3, "y": 3})  # beside all atoms
    expect(reading).to_be_empty()
    for ball in dialog.locator("circle.ball").all()[-2:]:  # the nearest ones
        ball.click(force=True)  # at the middle; it waits for a drawing that is being replaced
    i, j = (int(text) - 1 for text in dialog.get_by_label("Measure atoms").input_value().split())
    expect(reading).to_contain_text(f"{rdMolTransforms.GetBondLength(conformer, i, j):.3f} Å")
    dialog.get_by_label("Labels").check()
    expect(dialog.locator(".atom-label")).to_have_text(
        [f"{atom.GetSymbol()}{atom.GetIdx() + 1}" for atom in mol.GetAtoms()]
    )
    ball = dialog.locator("circle.ball").last
    before = ball.get_attribute("r")
    dialog.get_by_label("Style").select_option("space-filling")
    expect(ball).not_to_have_attribute("r", before or "")


@pytest.mark.parametrize("width", [390, 1920])
def test_nothing_sticks_out(visit: Open, width: int) -> None:
    page = visit("#generate?seed=1&count=2&atoms=5&tolerance=draft", viewport={"width": width, "height": 800})
    finished(page)
    expect(page.get_by_label("Sort").first).to_be_visible(visible=width > 640)
    for section in SECTIONS:
        page.locator(f"nav a[href='#{section}']").click()
        expect(page.locator(f"#{section}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("scrollY") == 0  # the title is not under the header


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit: Open, scheme: str) -> None:
    axe = (WEB / "node_modules" / "axe-core" / "axe.min.js").read_text()
    page = visit("#generate?seed=1&count=2&atoms=3&tolerance=draft", color_scheme=scheme)
    finished(page)
    page.evaluate(axe)
    serious = {section: violations(page, section) for section in SECTIONS}
    page.goto("/#generate")
    page.locator(".card .stage").first.click()
    serious["detail"] = violations(page, None)
    assert {place: found for place, found in serious.items() if found} == {}


def violations(page: Page, section: str | None) -> list[Any]:
    if section:
        page.locator(f"nav a[href='#{section}']").click()
        expect(page.locator(f"#{section}")).to_be_visible()
    found = page.evaluate("axe.run().then(({violations}) => violations)")
    worst = [each for each in found if each["impact"] in ("serious", "critical")]
    return [(each["id"], json.dumps([node["html"][:120] for node in each["nodes"]])) for each in worst]


def test_is_small(visit: Open) -> None:
    page = visit(webgl=True)
    page.locator("nav a[href='#explore']").click()  # its pictures bring the largest part, 3Dmol
    expect(page.locator(".slot canvas")).to_have_count(2)
    # The entries have the size of a body also where it came from the cache.
    entries = "['navigation', 'resource'].flatMap((type) => performance.getEntriesByType(type))"
    sizes = page.evaluate(f"{entries}.map((entry) => entry.encodedBodySize)")
    assert len(sizes) >= 5
    assert 150_000 < sum(sizes) < 400_000  # with 3Dmol in it


def test_lock_file_names_no_registry() -> None:
    packages = json.loads((WEB / "package-lock.json").read_text())["packages"].values()
    assert [package for package in packages if "resolved" in package] == []
