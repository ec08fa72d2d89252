"""The views in detail: progress while a request runs, texts, and the source of every number."""

import json
import re
from collections import Counter
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from tests.page.acting import WATER, Open, finished, formulas, generate, numbers, unfold

HOTTEST = "#d1495b"
"""The colour of an improbable atom in the light theme."""

COLOURS = "new Set([...document.querySelectorAll('#flow .stage circle')].map((ball) => ball.getAttribute('fill'))).size"

LISTEN = """
window.said = {};
window.metered = false;
new MutationObserver(() => {
  if (document.getElementById("generate-meter")?.hidden === false) window.metered = true;
  for (const id of ["announcer", "generate-note"]) {
    const text = document.getElementById(id)?.textContent;
    if (text) (window.said[id] ??= new Set()).add(text);
  }
}).observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
"""
"""Record every text of the announcer and of the note, and whether the meter was shown: all pass, the record stays."""


TIMES = """
window.times = [];
new MutationObserver(() => {
  const t = document.getElementById("flow-t")?.textContent;
  if (t && document.getElementById("flow-controls").disabled) window.times.push(Number(t));
}).observe(document, { subtree: true, childList: true, characterData: true });
"""


def said(page: Page, place: str) -> list[str]:
    """Return every text that an element has had."""
    texts: list[str] = page.evaluate("(place) => [...(said[place] ?? [])]", place)
    return texts


def fills(page: Page, section: str) -> Counter[str]:
    colours = page.locator(f"#{section} .stage circle").evaluate_all(
        "all => all.map((one) => one.getAttribute('fill'))"
    )
    return Counter(colours)


# Generate


def test_there_is_a_gallery_without_a_click(visit: Open, api: httpx.Client) -> None:
    page = visit()
    finished(page)
    expected = api.post("/sample", json={"n_molecules": 4, "seed": 7}).json()["molecules"]
    best_first = sorted(expected, key=lambda molecule: -(molecule["valid"] + molecule["stable"]))
    assert formulas(page) == [molecule["formula"] for molecule in best_first]
    link = page.url
    assert "nll=none" in link  # a visitor costs no likelihood
    page.locator("nav a[href='#score']").click()
    page.locator("nav a[href='#generate']").click()
    expect(page).to_have_url(link)
    assert len(formulas(page)) == 4


def test_molecules_come_one_by_one_and_progress_is_said(visit: Open) -> None:
    page = visit(script=LISTEN)
    form = page.locator("#generate-form")
    form.get_by_role("textbox", name="Atoms").fill("1, 29, 29, 29")
    unfold(page)
    form.get_by_label("Tolerance").select_option("precise")
    form.get_by_label("NLL").select_option("none")
    form.get_by_role("button", name="Generate").click()
    finished(page)
    assert page.evaluate("metered")
    counts = [found[1] for text in said(page, "generate-note") if (found := re.match(r"(\d) of 4 molecules", text))]
    assert sorted(set(counts) - {"0"}) == ["1", "2", "3", "4"]
    assert any(re.fullmatch(r"\d of 4 molecules, .* left", text) for text in said(page, "generate-note"))
    heard = said(page, "announcer")
    assert "Generating 4 molecules" in heard
    assert any(re.match(r"4 molecules in [\d.]+ s, ", text) for text in heard)


def test_who_waits_is_told_how_many_are_ahead(visit: Open) -> None:
    """The stream is made up, as a real queue is full by chance only: 12 of 30 waiting molecules are of this request."""
    page = visit(script=LISTEN)
    waiting = {"event": "progress", "running": [], "queue": {"ahead": 30, "running": 64}, "eta_s": 42.0}
    told = [{"event": "start", "model": {"name": "tiny"}, "seed": 1, "n_molecules": 12}, waiting]
    body = "".join(json.dumps(event) + "\n" for event in told)
    page.route("**/sample", lambda route: route.fulfill(body=body, content_type="application/x-ndjson"))
    page.locator("#generate-form").get_by_label("Molecules").fill("12")
    page.locator("#generate-form").get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("The connection ended early")
    assert "In the queue, 18 molecules ahead, about 42 s" in said(page, "generate-note")


def test_keeps_only_what_is_valid(visit: Open, api: httpx.Client) -> None:
    page = visit()
    page.locator("#generate-form").get_by_label("Keep").select_option("valid")
    generate(page, count=2, atoms="2")
    asked = {"n_molecules": 2, "n_atoms": 2, "seed": 1, "tolerance": "draft", "only": "valid"}
    expected = api.post("/sample", json=asked).json()
    assert formulas(page) == [molecule["formula"] for molecule in expected["molecules"]]
    expect(page.locator("#generate-note")).to_contain_text(f"{expected['attempts']['tried']} tried")
    assert page.locator("#generate .card .chip.bad").count() == 0


def test_a_card_says_why_a_molecule_is_none(visit: Open, api: httpx.Client) -> None:
    page = visit()
    generate(page, atoms="4, 6, 5")
    asked = {"n_molecules": 3, "n_atoms": [4, 6, 5], "seed": 1, "tolerance": "draft"}
    expected = api.post("/sample", json=asked).json()["molecules"]
    reasons = [molecule["bonds"]["reason"] for molecule in expected]
    assert all(reasons)
    assert page.locator("#generate .reason").all_text_contents() == reasons
    page.get_by_label("Sort").first.select_option("large")
    assert page.locator("#generate .pick").all_text_contents() == ["2", "3", "1"]


def test_sizes_of_a_range_are_asked_for_and_kept_in_the_link(visit: Open, api: httpx.Client) -> None:
    page = visit()
    generate(page, count=3, atoms="4 - 6")
    asked = {"n_molecules": 3, "n_atoms": {"min": 4, "max": 6}, "seed": 1, "tolerance": "draft"}
    expected = [each["formula"] for each in api.post("/sample", json=asked).json()["molecules"]]
    assert formulas(page) == expected
    assert "atoms=4-6" in page.url
    page.reload()
    expect(page.locator("#generate-form [name=atoms]")).to_have_value("4-6")


def test_the_link_that_is_copied_is_the_address(visit: Open) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    generate(page, seed=5)
    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    assert "seed=5" in link


# Watch


def test_the_flow_is_live_and_takes_its_colours_on_the_way(visit: Open, api: httpx.Client) -> None:
    page = visit("#flow", script=TIMES, reduced_motion="reduce")
    form = page.locator("#flow-form")
    form.get_by_role("textbox", name="Atoms").fill("20")
    unfold(page, "flow")
    form.get_by_label("Seed").fill("3")
    form.get_by_label("Tolerance").select_option("precise")
    form.get_by_label("Log-density").select_option("none")
    form.get_by_role("button", name="Let it flow").click()
    finished(page, "flow")
    assert any(0 < t < 1 for t in page.evaluate("times"))
    page.locator("#flow-slider").press("Home")
    expect(page.locator("#flow-t")).to_have_text("0.00")
    expect(page.locator("#flow-formula")).to_have_text("0 of 20 atoms have a type")
    page.wait_for_function(f"() => {COLOURS} === 1")
    page.locator("#flow-slider").press("End")
    molecule = api.post("/sample", json={"n_atoms": 20, "seed": 3, "tolerance": "precise"}).json()["molecules"][0]
    counts = sorted(int(n or 1) for n in re.findall(r"[A-Z][a-z]?(\d*)", molecule["formula"]))
    expect(page.locator("#flow-formula")).to_have_text(molecule["formula"])
    page.wait_for_function(f"() => {COLOURS} > 1")
    assert sorted(fills(page, "flow").values()) == counts

    again = visit(page.url[page.url.index("#") :], reduced_motion="reduce")
    expect(again.locator("#flow-formula")).to_have_text(molecule["formula"])


# Score


def test_scores_what_is_pasted_and_what_is_dropped(visit: Open) -> None:
    page = visit("#score")
    page.locator("#score-form textarea").fill(WATER)
    page.get_by_role("button", name="Score", exact=True).click()
    finished(page, "score")
    pasted = numbers(page, "#score-results .nll b")
    files = page.evaluate_handle(
        """(text) => {
          const files = new DataTransfer();
          for (const name of ["one.xyz", "two.xyz"]) files.items.add(new File([text], name));
          return files;
        }""",
        WATER,
    )
    page.dispatch_event("#score-drop", "drop", {"dataTransfer": files})
    expect(page.locator("#score-note")).to_have_text("2 structures scored")
    rows = page.locator("#score-results tbody tr")
    expect(rows).to_contain_text(["one.xyz", "two.xyz"])
    for row in rows.all():
        row.click()
        assert numbers(page, "#score-results .nll b") == pasted


def test_shows_the_percentile_and_where_a_molecule_is_unlikely(visit: Open, api: httpx.Client) -> None:
    astray = WATER.replace("0 -0.76 -0.47", "0 -30 -0.47")
    body = {"divergence": "hutchinson", "seed": 0, "tolerance": "draft"}
    both = [{"format": "xyz", "data": text} for text in (WATER, astray)]
    well, ill = api.post("/likelihood", json={"structures": both, **body}).json()["results"]
    assert max(ill["atom_base"]) > sorted(ill["atom_base"])[1] + 10

    page = visit("#score", color_scheme="light")
    page.locator("#score-form textarea").fill(WATER)
    page.get_by_role("button", name="Score", exact=True).click()
    percentile = page.locator("#score-results .percentile svg")
    expect(percentile).to_have_attribute(
        "aria-label", re.compile(rf"^{round(well['percentile'])}\w\w percentile of the NLL among held-out")
    )
    expect(page.locator("#score-results .stage .ball")).to_have_count(3)
    elements = fills(page, "score")
    assert fills(page, "score")[HOTTEST] == 0

    page.locator("#score-form textarea").fill(astray)
    page.get_by_role("button", name="Score", exact=True).click()
    expect(page.locator(f"#score-results .stage circle[fill='{HOTTEST}']")).to_have_count(1)
    assert elements - fills(page, "score") == Counter()  # the balls keep the colours of their elements
    expect(page.locator("#score-results .key")).to_contain_text("far out")
    assert "likely" not in page.locator("#score-results").inner_text()


def test_scores_smiles(visit: Open, tmp_path: Path) -> None:
    """RDKit gives the geometry; a name follows the SMILES."""
    smiles = ["CCO ethanol", "O", "C#N hydrogen cyanide"]
    expected = [rdMolDescriptors.CalcMolFormula(Chem.MolFromSmiles(line.split()[0])) for line in smiles]
    (tmp_path / "some.smi").write_text("\n".join(smiles))
    page = visit("#score")
    page.locator("#score-form textarea").fill("\n".join(smiles))
    page.get_by_role("button", name="Score", exact=True).click()
    headlines = page.locator("#score-results tbody .formula")
    expect(headlines).to_have_text(expected)
    page.locator("#score-file").set_input_files(tmp_path / "some.smi")
    expect(page.locator("#score-results")).to_contain_text("some.smi, structure 3")
    expect(headlines).to_have_text(expected)


def test_scores_have_the_names_of_their_structures(visit: Open, tmp_path: Path) -> None:
    """A name is shown beside file and number; a structure without one has only these."""
    (tmp_path / "water.xyz").write_text(WATER)
    page = visit("#score")
    page.locator("#score-form textarea").fill("CCO ethanol\nO\nC#N <b>prussic</b> acid")
    page.get_by_role("button", name="Score", exact=True).click()
    finished(page, "score")
    heads = page.locator("#score-results .headline")
    rows = page.locator("#score-results tbody tr")
    places = [f"pasted text, structure {number}" for number in (1, 2, 3)]
    expect(rows.get_by_role("rowheader")).to_have_text(["ethanol", places[1], "<b>prussic</b> acid"])
    for place, row, name in zip(places, rows.all(), ["C2H6O ethanol", "H2O", "CHN <b>prussic</b> acid"], strict=True):
        row.click()
        expect(heads.locator(".named")).to_have_text(name)
        expect(heads.locator(".quiet")).to_have_text(place)
    rows.first.click()
    expect(page.locator("#score-results .stage")).to_have_attribute("aria-label", re.compile("^ethanol, C2H6O"))
    page.locator("#score-file").set_input_files(tmp_path / "water.xyz")
    expect(heads.locator(".named")).to_have_text(["H2O water"])
    expect(heads.locator(".quiet")).to_have_text(["water.xyz"])


def test_structures_that_cannot_be_scored_have_their_names(visit: Open) -> None:
    """The stream is made up: one of its errors has a name, as the service gives where it read one."""
    page = visit("#score")
    error = {"detail": "found Cl as atom 2", "errors": []}
    failed = [{"index": 0, "name": "chloromethane", "error": error}, {"index": 1, "error": error}]
    told = [{"event": "start", "n_molecules": 2}, *({"event": "score", "score": each} for each in failed)]
    body = "".join(json.dumps(event) + "\n" for event in [*told, {"event": "done"}])
    page.route("**/likelihood*", lambda route: route.fulfill(body=body, content_type="application/x-ndjson"))
    page.locator("#score-form textarea").fill("CCl chloromethane\nCCl")
    page.get_by_role("button", name="Score", exact=True).click()
    heading = page.locator("#score-results .problem b")
    expect(heading).to_have_text("chloromethane (pasted text, structure 1):")
    page.locator("#score-results tbody tr").nth(1).click()
    expect(heading).to_have_text("pasted text, structure 2:")


# Explore and Model


def test_the_knob_says_how_far_variations_go(visit: Open) -> None:
    page = visit("#explore")
    form = page.locator("#variations-form")
    form.get_by_label("Variations of A").fill("2")
    form.get_by_label("Strength").fill("0.75")
    expect(form.locator("output")).to_have_text("0.75")
    with page.expect_request("**/variations") as asked:
        form.get_by_role("button", name="Vary").click()
    assert asked.value.post_data_json["strength"] == pytest.approx(0.75)
    expect(page.locator("#explore-note")).to_contain_text("variations of A with 75 % noise")


def test_results_stand_beside_the_published_ones(visit: Open) -> None:
    page = visit("#model")
    row = page.locator("#model-results tr", has=page.get_by_role("rowheader", name="E-NF (2021)"))
    expect(row).to_contain_text("4.9 %")  # stable molecules, from the paper
    expect(page.locator("#model-health")).to_contain_text("molecules running")
    expect(page.locator("#model-load svg")).to_have_attribute("aria-label", re.compile("now 0"))
