"""The section Generate, used by a browser; the expected values come from the API, RDKit and zipfile."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.page.acting import (
    ESTIMATE,
    Open,
    download,
    elements,
    eventually,
    finished,
    formulas,
    frames,
    generate,
    numbers,
    scores,
    structures,
    unfold,
)


def test_generates_what_the_api_generates_and_saves_it(visit: Open, api: httpx.Client) -> None:
    page = visit(webgl=True)
    generate(page)
    asked = {"n_molecules": 3, "n_atoms": 5, "seed": 1, "tolerance": "draft"}
    expected = api.post("/sample", json=asked).json()["molecules"]
    assert formulas(page) == [molecule["formula"] for molecule in expected]
    expect(page.locator("#generate canvas.painter")).to_have_count(3)

    saved = structures(download(page, "Download as XYZ").decode())
    truth = structures("".join(molecule["xyz"] for molecule in expected))
    for mine, theirs in zip(saved, truth, strict=True):
        assert elements(mine) == elements(theirs)
        assert abs(mine.GetConformer().GetPositions() - theirs.GetConformer().GetPositions()).max() < 1e-3


def test_downloads_can_be_read_elsewhere(visit: Open, api: httpx.Client) -> None:
    page = visit("#generate?seed=1&count=3&atoms=5&tolerance=draft&nll=none")
    finished(page)
    page.get_by_role("checkbox", name="Select molecule 2").check()
    assert len(structures(download(page, "Download as XYZ").decode())) == 1

    page.get_by_role("checkbox", name="Select molecule 2").uncheck()
    with zipfile.ZipFile(io.BytesIO(download(page, "Download as ZIP"))) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        table = archive.read("molecules.csv").decode().splitlines()
    assert sum(name.endswith(".xyz") for name in names) == 3
    assert [row.split(",")[2] for row in table[1:]] == formulas(page)


def test_link_reproduces_the_view(visit: Open) -> None:
    """Single atoms have no distances, so the noise of their scores is the same each time."""
    page = visit()
    generate(page, count=5, atoms="1, 1, 1, 1, 2", seed=4, nll="estimate")
    page.get_by_label("Sort").first.select_option("likely")
    page.get_by_label("Atoms at most").first.fill("1")
    shown, link = formulas(page), page.url
    assert len(shown) == 4
    assert len(set(shown)) > 1
    nlls = numbers(page, "#generate .card:not([hidden]) .fact b")
    assert nlls == sorted(nlls)
    again = visit(link[link.index("#") :])
    finished(again)
    assert formulas(again) == shown
    assert numbers(again, "#generate .card:not([hidden]) .fact b") == [pytest.approx(nll, abs=0.11) for nll in nlls]


def test_temperature_and_refinements_are_asked_for_and_stay_in_the_link(visit: Open, api: httpx.Client) -> None:
    page = visit("#generate?seed=1&count=2&atoms=5&tolerance=draft&nll=none&temperature=0.5&refinements=2")
    finished(page)
    body = {"n_atoms": [5, 5], "seed": 1, "tolerance": "draft", "temperature": 0.5, "refinements": 2}
    expected = api.post("/sample", json=body).json()
    saved = structures(download(page, "Download as XYZ").decode())
    for mine, theirs in zip(saved, expected["molecules"], strict=True):
        (truth,) = structures(theirs["xyz"])
        assert abs(mine.GetConformer().GetPositions() - truth.GetConformer().GetPositions()).max() < 1e-3
    assert "temperature=0.5&refinements=2" in page.url
    page.evaluate("location.hash = '#generate?seed=2&count=1&atoms=5&tolerance=draft&nll=none'")
    expect(page.locator("#generate-form [name=temperature]")).to_have_value("1")
    expect(page.locator("#generate-form [name=refinements]")).to_have_value("")


def test_estimates_the_likelihoods_of_what_it_made(visit: Open, api: httpx.Client) -> None:
    page = visit()
    generate(page, nll="estimate")
    made = frames(download(page, "Download as XYZ").decode())
    expected = scores(api, made, seed=1, **ESTIMATE)
    nlls = [score["nll"] for score in expected]
    assert numbers(page, "#generate .card .fact b") == [pytest.approx(nll, abs=0.06) for nll in nlls]
    assert all(score["std_error"] > 0 for score in expected)
    expect(page.locator("#generate-note")).to_contain_text("their likelihoods in")
    page.get_by_label("NLL at most").first.fill(f"{sorted(nlls)[1] + 0.01}")
    assert len(formulas(page)) == 2


def test_goes_on_without_the_page(visit: Open, api: httpx.Client, tmp_path: Path) -> None:
    """The copied shell commands and the copied program make the molecules of the page and score them as the page."""
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    generate(page, nll="estimate")
    shown = [elements(each) for each in structures(download(page, "Download as XYZ").decode())]
    page.get_by_role("button", name="Copy curl").click()
    commands = page.evaluate("navigator.clipboard.readText()")
    shell = subprocess.run(["sh", "-c", commands], cwd=tmp_path, capture_output=True, check=True)
    made = (tmp_path / "molecules.xyz").read_text()
    assert [elements(each) for each in structures(made)] == shown
    expected = [pytest.approx(score["nll"], abs=0.06) for score in scores(api, frames(made), seed=1, **ESTIMATE)]
    assert [score["nll"] for score in json.loads(shell.stdout)["results"]] == expected

    page.get_by_role("button", name="Copy Python").click()
    program = page.evaluate("navigator.clipboard.readText()")
    program += "print(*(each['xyz'] for each in molecules), sep='', end='')\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    printed, made = done.stdout.splitlines()[:3], "".join(done.stdout.splitlines(keepends=True)[3:])
    assert [elements(each) for each in structures(made)] == shown
    expected = [pytest.approx(score["nll"], abs=0.06) for score in scores(api, frames(made), seed=1, **ESTIMATE)]
    assert [float(line.split()[-2]) for line in printed] == expected


def test_filters_by_what_the_service_says(visit: Open, api: httpx.Client) -> None:
    page = visit()
    generate(page, count=6, atoms="3")
    asked = {"n_molecules": 6, "n_atoms": 3, "seed": 1, "tolerance": "draft"}
    molecules = api.post("/sample", json=asked).json()["molecules"]
    page.get_by_label("Show").first.select_option("invalid")
    assert len(formulas(page)) == sum(not molecule["valid"] for molecule in molecules)
    page.get_by_label("Show").first.select_option("valid")
    assert len(formulas(page)) == sum(molecule["valid"] for molecule in molecules)


COUNT_PICTURES = """
window.pictures = 0;
const draw = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (...rest) {
  window.pictures += 1;
  return draw.apply(this, rest);
};
"""
SETTLE = """async () => {
  for (let before = -1; before !== pictures; ) {
    before = pictures;
    await new Promise((wait) => setTimeout(wait, 400)); // longer than a picture waits for its final drawing
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    await new Promise(requestIdleCallback); // pictures outside the window are drawn in idle time, in turn
  }
  return pictures;
}"""
SCROLL = """async () => {
  for (let y = 0; y < document.body.scrollHeight; y += 300) {
    scrollTo(0, y);
    await new Promise(requestAnimationFrame);
  }
  scrollTo(0, 0);
  await new Promise(requestAnimationFrame);
}"""


def test_scrolling_draws_nothing(visit: Open) -> None:
    """Every picture is drawn once, also outside the window; only a picture that is turned is drawn again."""
    page = visit(webgl=True, script=COUNT_PICTURES, viewport={"width": 700, "height": 600}, reduced_motion="reduce")
    generate(page, count=40, atoms="2")
    expect(page.locator("#generate canvas.painter")).to_have_count(40)
    page.wait_for_function("() => pictures >= 40")
    drawn = page.evaluate(SETTLE)
    page.evaluate(SCROLL)
    assert page.evaluate(SETTLE) == drawn
    page.locator("#generate .stage").first.press("ArrowRight")
    page.wait_for_function(f"() => pictures > {drawn}")
    assert page.evaluate(SETTLE) <= drawn + 2  # fast at first, then finely


def test_pictures_do_not_grow_without_end(visit: Open) -> None:
    page = visit(viewport={"width": 700, "height": 600})
    generate(page, count=300, atoms="2")
    expect(page.locator(".card .painter")).to_have_count(256)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(page.locator("#generate .card").last.locator(".painter")).to_be_visible()
    assert page.locator(".card .painter").count() == 256


def test_cancel_frees_the_device(visit: Open, api: httpx.Client) -> None:
    page = visit()
    form = page.locator("#generate-form")
    form.get_by_label("Molecules").fill("1000")  # many times the work that is done until the button is pressed
    unfold(page)
    form.get_by_label("Tolerance").select_option("precise")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("#generate .card").first).to_be_visible()
    page.locator("#generate-cancel").click()
    expect(page.locator("#generate-note")).to_contain_text("Cancelled")
    eventually(page, lambda: api.get("/health/ready").json()["queue"] == {"waiting": 0, "running": 0})
