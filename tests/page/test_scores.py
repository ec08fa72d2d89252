"""The table of scores: its orders, its selection and its files. The expected values come from the service."""

import json
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.page.acting import Open, download, finished
from tests.page.serving import WEB

CYCLOPROPANE, FAILED = "cyclopropane", "chloromethane"
SMILES = f"CCO ethanol\nCCl {FAILED}\nO water\nC1CC1 {CYCLOPROPANE}\n[NH3+\nCCC"
Entry = dict[str, Any]


def scored(page: Page) -> list[Entry]:
    """Score the structures above, and return the entries that the page receives."""
    texts: list[str] = []

    def read(route: Route) -> None:
        answer = route.fetch(timeout=0)  # no limit
        texts.append(answer.text())
        route.fulfill(response=answer)

    page.route("**/likelihood", read)
    page.locator("#score-form textarea").fill(SMILES)
    page.get_by_role("button", name="Score", exact=True).click()
    finished(page, "score")
    found = [json.loads(line) for line in texts[0].splitlines()]
    return sorted((each["score"] for each in found if each["event"] == "score"), key=lambda entry: entry["index"])


def rows(page: Page) -> Locator:
    return page.locator("#score-results tbody tr")


def names(page: Page) -> list[str]:
    return rows(page).get_by_role("rowheader").all_inner_texts()


def named(entry: Entry) -> str:
    return str(entry.get("name") or f"pasted text, structure {entry['index'] + 1}")


def violations(page: Page) -> list[str]:
    page.evaluate((WEB / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run().then(({violations}) => violations)")
    return [f"{each['id']}: {[node['html'][:120] for node in each['nodes']]}" for each in found]


def test_every_column_orders_the_scores_and_failures_are_last(visit: Open) -> None:
    page = visit("#score")
    entries = scored(page)
    good, bad = ([each for each in entries if ("error" in each) is failed] for failed in (False, True))
    assert (len(good), len(bad)) == (4, 2)
    last = [named(each) for each in bad]
    assert names(page) == [named(each) for each in good] + last
    for reason, row in zip([each["error"]["detail"] for each in bad], rows(page).all()[-2:], strict=True):
        expect(row).to_contain_text(reason)
    heads = page.locator("#score-results thead")
    for label, key in (("NLL", "nll"), ("Atoms", "n_atoms")):
        head = heads.get_by_role("columnheader", name=label)
        for direction, sign in (("descending", -1), ("ascending", 1)):
            head.get_by_role("button").press("Enter")
            expect(head).to_have_attribute("aria-sort", direction)
            expect(head.get_by_role("button")).to_be_focused()
            ordered = sorted(good, key=lambda entry: (sign * entry[key], entry["index"]))
            assert names(page) == [named(each) for each in ordered] + last
    head = heads.get_by_role("columnheader", name="Structure")
    for direction, reverse in (("ascending", False), ("descending", True)):
        head.get_by_role("button").click()
        expect(head).to_have_attribute("aria-sort", direction)
        assert names(page) == sorted((named(each) for each in good), reverse=reverse) + last
    assert heads.locator("[aria-sort]").count() == 1


def test_arrow_keys_select_the_structure_that_is_shown(visit: Open) -> None:
    page = visit("#score")
    entries = {named(each): each for each in scored(page)}
    order, shown = names(page), page.locator("#score-results .score")
    current = page.locator("#score-results [aria-current=true]")
    expect(current).to_have_text(order[0])
    steps = [("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", 5), ("ArrowDown", 5), ("Home", 0)]
    for key, place in steps:
        current.press(key)
        expect(current).to_have_text(order[place])
        expect(current).to_be_focused()
        entry = entries[order[place]]
        if "error" in entry:
            expect(shown.get_by_role("alert")).to_contain_text(entry["error"]["detail"])
        else:
            expect(shown.locator("circle.ball")).to_have_count(entry["n_atoms"])
    page.get_by_role("columnheader", name="NLL").get_by_role("button").click()
    expect(current).to_have_text(order[0])  # an order does not change what a user has selected


def test_files_are_those_of_the_service_in_the_order_of_the_table(visit: Open) -> None:
    page = visit("#score")
    good = [each for each in scored(page) if "error" not in each]
    assert download(page, "Download as XYZ", "score").decode() == "".join(each["xyz"] for each in good)
    page.get_by_role("columnheader", name="NLL").get_by_role("button").click()
    good.sort(key=lambda entry: -entry["nll"])
    sdf = download(page, "Download as SDF", "score").decode()
    assert sdf == "".join(each["sdf"] for each in good)
    assert [float(text.split("\n")[1]) for text in sdf.split("<nll>")[1:]] == [
        pytest.approx(each["nll"], abs=1e-3) for each in good
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_scores_on_a_phone(visit: Open, scheme: str) -> None:
    page = visit("#score", viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    scored(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    edge = page.locator("#score-results thead th").nth(1).evaluate("head => head.getBoundingClientRect().right")
    assert edge <= 390  # the NLL is in sight
    rows(page).filter(has_text=CYCLOPROPANE).tap()
    expect(page.locator("#score-results .score")).to_contain_text(CYCLOPROPANE)
    assert violations(page) == []
    rows(page).filter(has_text=FAILED).tap()
    expect(page.locator("#score-results .problem")).to_contain_text(FAILED)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
