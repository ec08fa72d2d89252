"""Properties of molecules on the page: table, plot, filters and files. RDKit computes the values that must be shown."""

import csv
import io
import json
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors, rdDistGeom, rdMolDescriptors

from tests.page.acting import Open, download, finished, formulas, unfold
from tests.page.serving import WEB

SMILES = ["CCO", "c1ccccc1", "CC(=O)N", "C1CC1"]


def described(index: int, smiles: str) -> dict[str, Any]:
    """Return a molecule as the service answers it."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    properties = {
        "inchikey": f"KEY{index}",
        "weight": Descriptors.MolWt(mol),
        "heavy_atoms": mol.GetNumHeavyAtoms(),
        "logp": Crippen.MolLogP(mol),
        "tpsa": rdMolDescriptors.CalcTPSA(mol),
        "qed": QED.qed(mol),
        "rings": rdMolDescriptors.CalcNumRings(mol),
        "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds(mol),
        "donors": rdMolDescriptors.CalcNumHBD(mol),
        "acceptors": rdMolDescriptors.CalcNumHBA(mol),
        "sa_score": 1.5 + index,
        "strain": None if index == 1 else 2.0 * index,
        "connected": index != 2,
        "novel": index == 3,
    }
    return {
        "index": index,
        "kind": "molecule",
        "seed": 5,
        "n_atoms": mol.GetNumAtoms(),
        "formula": rdMolDescriptors.CalcMolFormula(mol),
        "smiles": smiles,
        "xyz": Chem.MolToXYZBlock(mol),
        "sdf": Chem.MolToMolBlock(mol),
        "bonds": {"status": "ok", "method": "RDKit", "reason": None},
        "valid": True,
        "stable": True,
        "atom_stability": 1.0,
        "nfe": 50,
        "solver_status": "success",
        "properties": properties,
    }


MOLECULES = [described(index, smiles) for index, smiles in enumerate(SMILES)]


def answer(route: Route) -> None:
    """Answer a request for molecules with those above."""
    start = {"event": "start", "seed": 5, "model": {"name": "tiny", "sha256": ""}, "n_molecules": len(MOLECULES)}
    attempts = {"tried": 4, "found": 4, "rejected": {}, "reasons": {}}
    done = {"event": "done", "seed": 5, "failed": [], "attempts": attempts}
    events = [start, *({"event": "molecule", "molecule": each} for each in MOLECULES), done]
    route.fulfill(body="\n".join(map(json.dumps, events)) + "\n", content_type="application/x-ndjson")


@pytest.fixture
def page(visit: Open) -> Page:
    """The page with four molecules that have properties."""
    page = visit("#generate?count=4&nll=none")
    page.route("**/sample", answer)
    page.get_by_role("button", name="Generate", exact=True).click()
    finished(page)
    return page


def violations(page: Page) -> list[str]:
    page.evaluate((WEB / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run().then(({violations}) => violations)")
    return [each["id"] for each in found if each["impact"] in ("serious", "critical")]


def column(page: Page, name: str) -> list[str]:
    """Return the texts of a column of the table."""
    head = page.locator(".molecules thead th").all_inner_texts()
    place = next(i for i, text in enumerate(head) if text.split(" ")[0].strip("↑↓") == name)
    rows = page.locator(".molecules tbody tr").all()
    return [row.locator("th, td").nth(place).inner_text() for row in rows]


def test_the_table_has_the_numbers_and_orders_by_them(page: Page) -> None:
    page.get_by_label("View").first.select_option("table")
    expect(page.locator(".molecules tbody tr")).to_have_count(4)
    assert column(page, "Weight") == [f"{each['properties']['weight']:.1f}" for each in MOLECULES]
    assert column(page, "logP") == [f"{each['properties']['logp']:.2f}".replace("-", "−") for each in MOLECULES]
    assert column(page, "New") == ["no", "no", "no", "yes"]
    assert column(page, "Strain") == ["0.0", "–", "4.0", "6.0"]
    page.get_by_role("button", name="QED").click()
    best_first = sorted(MOLECULES, key=lambda each: -each["properties"]["qed"])
    assert column(page, "SMILES") == [each["smiles"] for each in best_first]
    page.get_by_role("button", name="Strain").click()
    page.get_by_role("button", name="Strain").click()
    assert column(page, "Strain") == ["0.0", "4.0", "6.0", "–"]  # the smallest first, none last
    assert "sort=strain" in page.url
    assert violations(page) == []


def test_filters_by_a_property_and_saves_what_is_shown(page: Page) -> None:
    page.get_by_role("combobox", name="Property").first.select_option("rings")
    page.get_by_label("Property at least").first.fill("1")
    expected = [each for each in MOLECULES if each["properties"]["rings"] >= 1]
    assert formulas(page) == [each["formula"] for each in expected]
    rows = list(csv.DictReader(io.StringIO(download(page, "Download as CSV").decode())))
    assert [row["smiles"] for row in rows] == [each["smiles"] for each in expected]
    assert [row["connected"] for row in rows] == [str(each["properties"]["connected"]).lower() for each in expected]
    assert [float(row["qed"]) for row in rows] == [each["properties"]["qed"] for each in expected]
    assert rows[0]["strain"] == ""


def test_the_plot_has_a_point_for_each_molecule(page: Page) -> None:
    page.get_by_label("View").first.select_option("plot")
    points = page.locator(".scatter .point")
    expect(points).to_have_count(4)
    page.get_by_role("combobox", name="Across").select_option("weight")
    places = [float(point.get_attribute("cx") or "nan") for point in points.all()]
    weights = [each["properties"]["weight"] for each in MOLECULES]
    slope = (places[1] - places[0]) / (weights[1] - weights[0])
    assert places == [pytest.approx(places[0] + slope * (weight - weights[0]), abs=0.01) for weight in weights]
    page.get_by_role("combobox", name="Up", exact=True).select_option("strain")
    expect(points).to_have_count(3)  # benzene has none
    points.first.click()
    expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text(MOLECULES[0]["formula"])
    expect(page.get_by_role("dialog")).to_contain_text("QM9 has a molecule with these bonds")
    page.keyboard.press("Escape")
    assert violations(page) == []


def test_conditions_are_sent_and_kept_in_the_link(page: Page) -> None:
    form = page.locator("#generate-form")
    unfold(page)
    form.get_by_label("Require").select_option("qed")
    form.get_by_label("at least").fill("0.4")
    form.get_by_label("No duplicates").check()
    form.get_by_label("Keep").select_option("connected")
    with page.expect_request("**/sample") as asked:
        form.get_by_role("button", name="Generate").click()
    sent = asked.value.post_data_json
    assert sent["where"] == {"qed": [0.4, None]}
    assert (sent["unique"], sent["only"]) == (True, "connected")
    finished(page)
    assert {"where=qed", "least=0.4", "unique=true", "only=connected"} <= set(page.url.split("?")[1].split("&"))
