"""The page with several models: particles, and molecules of a formula; the expected values come from the API."""

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.page.acting import ESTIMATE, Open, download, finished, formulas, frames, numbers, received, scores, unfold


def ask(page: Page, **fields: str) -> None:
    form = page.locator("#generate-form")
    unfold(page)
    for label, value in fields.items():
        field = form.get_by_label(label)
        if field.evaluate("element => element.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)
    form.get_by_role("button", name="Generate").click()


@pytest.mark.parametrize(("model", "balls"), [("lj13", 13), ("dw4", 4)])
def test_particles_are_balls_with_energy_and_nll(visit: Open, api: httpx.Client, model: str, balls: int) -> None:
    page = visit()
    ask(page, Model=model, Molecules="2", Seed="1")
    for label in (re.compile("^Atoms"), "Formula", "Keep"):
        expect(page.locator("#generate-form").get_by_label(label)).to_be_hidden()
    finished(page)
    made = download(page, "Download as XYZ").decode()
    assert made.count("Ar ") == 2 * balls
    told = [score[value] for score in scores(api, frames(made), model=model) for value in ("energy", "nll")]
    assert numbers(page, "#generate .card .fact b") == [pytest.approx(value, abs=0.06) for value in told]
    card = page.locator("#generate .card").first
    expect(card.locator("circle.ball")).to_have_count(balls)
    expect(card.locator(".painter line")).to_have_count(0)
    expect(page.locator("#generate-note")).to_contain_text(f"2 samples of {model}")
    expect(page.get_by_role("button", name="Download as SDF")).to_be_hidden()

    again = visit(page.url[page.url.index("#") :])
    finished(again)
    assert numbers(again, "#generate .card .fact b") == [pytest.approx(value, abs=0.11) for value in told]


def test_particles_flow(visit: Open, api: httpx.Client) -> None:
    page = visit("#generate?seed=3&count=1&model=dw4", webgl=True, reduced_motion="reduce")
    finished(page)
    molecule = received(page, page.get_by_role("button", name="Watch the flow of sample 1, 4 particles").click)
    expect(page.locator("#flow-play")).to_be_enabled()
    expect(page.locator("#flow-formula")).to_have_text("4 particles")
    finished(page, "flow")
    expect(page.locator("#flow-nfe")).to_have_text(str(molecule["frames"][-1]["nfe"]))
    (score,) = scores(api, [molecule["xyz"]], model="dw4")
    assert numbers(page, "#flow-density") == [pytest.approx(score["path"][-1][1], abs=0.06)]
    page.locator("#flow-slider").press("Home")
    assert numbers(page, "#flow-density") == [pytest.approx(score["path"][0][1], abs=0.06)]


def test_a_formula_gives_its_molecules_and_both_models_say_how_likely(visit: Open, api: httpx.Client) -> None:
    page = visit()
    ask(page, Molecules="2", Formula="CH4O", Seed="1", Tolerance="draft", NLL="estimate")
    finished(page)
    assert formulas(page) == ["CH4O"] * 2
    made = frames(download(page, "Download as XYZ").decode())
    own, joint = (scores(api, made, seed=1, **ESTIMATE, **model) for model in ({"model": "tiny-formula"}, {}))
    told = []
    for given, both in zip(own, joint, strict=True):
        told += [given["parts"]["base"] + given["parts"]["divergence"], given["nll"], both["nll"]]
    expect(page.locator("#generate .card .fact").first).to_contain_text("p(geometry | formula)")
    assert numbers(page, "#generate .card .fact b") == [pytest.approx(value, abs=0.06) for value in told]
    assert "formula=CH4O" in page.url


@pytest.mark.parametrize(("formula", "said"), [("CH3Cl", "found element Cl"), ("C20H42", "found 62 atoms")])
def test_an_impossible_formula_is_explained(visit: Open, formula: str, said: str) -> None:
    page = visit(f"#generate?seed=1&count=1&formula={formula}")
    expect(page.get_by_role("alert")).to_contain_text(said)


def test_what_is_no_formula_is_not_sent(visit: Open) -> None:
    page = visit("#generate?count=1")
    ask(page, Formula="methane")
    assert page.locator("#generate-form").evaluate("form => form.checkValidity()") is False
    expect(page.locator("#generate .card")).to_have_count(0)


def test_scores_particles_by_their_model(visit: Open, api: httpx.Client, tmp_path: Path) -> None:
    (molecule,) = api.post("/sample", json={"model": "dw4", "seed": 2}).json()["molecules"]
    (tmp_path / "four.xyz").write_text(molecule["xyz"])
    page = visit("#score")
    unfold(page, "score")
    page.locator("#score-form").get_by_label("Model").select_option("dw4")
    page.locator("#score-form").get_by_label("Divergence").select_option("exact")
    page.locator("#score-file").set_input_files(tmp_path / "four.xyz")
    finished(page, "score")
    (score,) = scores(api, [molecule["xyz"]], model="dw4")
    assert numbers(page, "#score-results .nll b") == [pytest.approx(score["nll"], abs=0.06)]
    expect(page.locator("#score-results")).to_contain_text("4 particles")
    expect(page.locator("#score-results")).to_contain_text("energy")


def test_the_model_view_shows_every_card(visit: Open, api: httpx.Client) -> None:
    page = visit("#model")
    cards = api.get("/models").json()["models"]
    expect(page.locator("#model-card h3")).to_have_text([card["name"] for card in cards])
    for card in cards:
        expect(page.locator("#model-card")).to_contain_text(card["weights_sha256"])
    expect(page.locator("#model-card")).to_contain_text("13 particles in 3 dimensions")
    expect(page.locator("#model-health")).to_contain_text("tiny: ready")
