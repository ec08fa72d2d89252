"""Actions of a user on the page, and the values that the page shows, shared by the tests of the page."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, Route, expect
from rdkit import Chem

from tests.page.conftest import PATIENCE_MS

Open = Callable[..., Page]
expect.set_options(timeout=PATIENCE_MS)

SECTIONS = ("generate", "grow", "flow", "score", "explore", "jobs", "model")
ETHANOL_FORMULA = "C2H6O"
WATER = "3\nwater\nO 0 0 0.12\nH 0 0.76 -0.47\nH 0 -0.76 -0.47\n"
BROKEN = "3\n<img src=x onerror=document.title='owned'>\nO 0 0 0.12\nH 0 zero -0.47\nH 0 -0.76 -0.47\n"


def unfold(page: Page, section: str = "generate") -> None:
    """Open the advanced fields of a form."""
    page.locator(f"#{section}-form .advanced").evaluate_all("all => all.forEach(details => details.open = true)")


def generate(page: Page, *, count: int = 3, atoms: str = "5", seed: int = 1, nll: str = "none") -> None:
    form = page.locator("#generate-form")
    unfold(page)
    form.get_by_label("Molecules").fill(str(count))
    form.get_by_role("textbox", name="Atoms").fill(atoms)
    form.get_by_label("Seed").fill(str(seed))
    form.get_by_label("Tolerance").select_option("draft")
    form.get_by_label("NLL").select_option(nll)
    form.get_by_role("button", name="Generate").click()
    finished(page)


def finished(page: Page, section: str = "generate") -> None:
    """Wait for the complete answer with its likelihoods."""
    if section == "generate":
        expect(page.locator("#generate-share")).to_be_visible()
    expect(page.locator(f"#{section}-form")).to_have_attribute("aria-busy", "false")


def eventually(page: Page, condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; only for a state that stays when it is reached."""
    late = time.monotonic() + PATIENCE_MS / 1000
    while not condition():
        assert time.monotonic() < late, "the page never reached the expected state"
        page.wait_for_timeout(100)


def download(page: Page, name: str, section: str = "generate") -> bytes:
    with page.expect_download() as started:
        page.locator(f"#{section}").get_by_role("button", name=name, exact=True).click()
    return Path(started.value.path()).read_bytes()


def formulas(page: Page) -> list[str]:
    return page.locator("#generate .card:not([hidden]) .formula").all_text_contents()


def numbers(page: Page, selector: str) -> list[float]:
    found = (text.replace("−", "-").split(" ")[0] for text in page.locator(selector).all_text_contents())
    return [float(text) for text in found]


def frames(xyz: str) -> list[str]:
    """Return the text of every frame of an XYZ file."""
    lines, found = xyz.splitlines(keepends=True), []
    while lines:
        n_lines = int(lines[0]) + 2
        found.append("".join(lines[:n_lines]))
        lines = lines[n_lines:]
    return found


def structures(xyz: str) -> list[Chem.Mol]:
    """Return every frame of an XYZ file, read by RDKit."""
    found = []
    for frame in frames(xyz):
        count, _, *atoms = frame.splitlines()
        plain = [" ".join(line.split()[:4]) for line in atoms]  # RDKit reads the four plain columns
        found.append(Chem.MolFromXYZBlock("\n".join([count, "", *plain, ""])))
    return found


def received(page: Page, act: Callable[[], None]) -> dict[str, Any]:
    """Return the one molecule that the page receives from /sample when an action asks for it.

    The answer is read before the page gets it: Chromium may have dropped the text of a stream that was read.
    """
    texts: list[str] = []

    def read(route: Route) -> None:
        answer = route.fetch(timeout=0)  # no limit
        texts.append(answer.text())
        route.fulfill(response=answer)

    page.route("**/sample", read)
    with page.expect_response("**/sample"):
        act()
    page.unroute("**/sample", read)
    events = [json.loads(line) for line in texts[0].splitlines()]
    (molecule,) = [event["molecule"] for event in events if event["event"] == "molecule"]
    return dict(molecule)


ESTIMATE = {"divergence": "hutchinson", "tolerance": "draft"}
"""The options with which the page estimates a likelihood."""


def scores(api: httpx.Client, xyz: list[str], **options: object) -> list[dict[str, Any]]:
    """Return the scores of the API for the structures that the page shows.

    The same request made again gives positions with other last digits, and such a structure may have other noise: the
    noise of a score is seeded by rounded distances.
    """
    body = {"structures": [{"format": "xyz", "data": each} for each in xyz], **options}
    found: list[dict[str, Any]] = api.post("/likelihood", json=body).json()["results"]
    return found


def elements(mol: Chem.Mol) -> list[int]:
    return [atom.GetAtomicNum() for atom in mol.GetAtoms()]
