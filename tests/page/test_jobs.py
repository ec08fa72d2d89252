"""The jobs of the page: start, progress, download, removal."""

import httpx
from playwright.sync_api import expect

from tests.page.acting import Open, unfold
from tests.page.serving import WEB


def test_a_job_from_its_start_to_its_file(visit: Open, api: httpx.Client) -> None:
    page = visit("#jobs")
    expect(page.locator("#jobs-empty")).to_be_visible()
    form = page.locator("#jobs-form")
    form.get_by_label("Molecules").fill("70")
    form.get_by_role("textbox", name="Atoms").fill("5")
    form.get_by_label("Keep").select_option("any")
    unfold(page, "jobs")
    form.get_by_label("Seed").fill("3")
    form.get_by_label("Tolerance").select_option("draft")
    form.get_by_role("button", name="Start job").click()
    job = page.locator("#jobs-list .job")
    expect(job).to_contain_text("70 × sample, seed 3")
    expect(job).to_contain_text("done: 70 of 70")
    (known,) = api.get("/jobs").json()["jobs"]
    with page.expect_download() as download:
        job.get_by_role("button", name="Download XYZ").click()
    text = download.value.path().read_text()
    assert text == api.get(known["results"], headers={"Accept": "chemical/x-xyz"}).text
    assert text.count("Properties=") == known["done"] - known["failed"]
    page.evaluate((WEB / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run().then(({violations}) => violations)")
    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
    job.get_by_role("button", name="Remove").click()
    expect(page.locator("#jobs-empty")).to_be_visible()
    assert api.get("/jobs").json() == {"jobs": []}


def test_a_refused_job_says_why_and_a_running_one_is_cancelled(visit: Open, api: httpx.Client) -> None:
    page = visit("#jobs")
    form = page.locator("#jobs-form")
    form.get_by_role("textbox", name="Atoms").fill("200")
    form.get_by_role("button", name="Start job").click()
    expect(page.locator("#jobs-problem")).to_contain_text("limit max_atoms of 29")
    form.get_by_label("Molecules").fill("1000000")
    form.get_by_role("textbox", name="Atoms").fill("")
    form.get_by_role("button", name="Start job").click()
    expect(page.locator("#jobs-problem")).to_be_empty()
    job = page.locator("#jobs-list .job")
    expect(job).to_contain_text("of 1,000,000")
    job.get_by_role("button", name="Cancel").click()
    expect(job).to_contain_text("cancelled: ")
    job.get_by_role("button", name="Remove").click()
    expect(job).to_have_count(0)
    assert api.get("/jobs").json() == {"jobs": []}
