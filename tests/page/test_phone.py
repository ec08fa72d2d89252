"""The page on a phone: the navigation and the table of results are whole or can be scrolled to."""

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.acting import SECTIONS, Open

PHONE = {"viewport": {"width": 390, "height": 844}}


def box(element: Locator) -> dict[str, Any]:
    found = element.bounding_box()
    assert found is not None
    return dict(found)


def ends(page: Page, selector: str) -> list[float]:
    """Return the right edges of elements."""
    edges: list[float] = page.locator(selector).evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect().right)"
    )
    return edges


@pytest.mark.parametrize("width", [320, 390, 700])
def test_every_section_of_the_navigation_is_in_sight(visit: Open, width: int) -> None:
    page = visit("#model", viewport={"width": width, "height": 844})
    edges = ends(page, "nav a")
    assert len(edges) == len(SECTIONS)
    assert max(edges) <= width
    assert page.locator("nav").evaluate("nav => nav.scrollWidth <= nav.clientWidth")


def test_the_navigation_of_a_phone_is_one_row(visit: Open) -> None:
    page = visit("#model", **PHONE)
    tops = page.locator("nav a").evaluate_all("all => all.map((one) => one.getBoundingClientRect().top)")
    assert len(set(tops)) == 1


def test_the_table_of_results_scrolls_beside_its_names(visit: Open) -> None:
    page = visit("#model", **PHONE)
    place = page.locator("#model-results")
    caption = place.locator("caption span")
    expect(caption).to_be_visible()
    frame = box(place)
    assert place.evaluate("place => place.scrollWidth > place.clientWidth")
    assert sum(edge <= frame["x"] + frame["width"] for edge in ends(page, "#model-results thead th")) >= 2
    for left in (0, 10_000):
        place.evaluate("(place, left) => { place.scrollLeft = left; }", left)
        text, name = box(caption), box(place.get_by_role("rowheader", name="EDM (2022)"))
        assert text["x"] == pytest.approx(frame["x"], abs=1)
        assert text["x"] + text["width"] <= frame["x"] + frame["width"] + 1
        assert name["x"] == pytest.approx(frame["x"], abs=1)
    assert max(ends(page, "#model-results thead th")) <= frame["x"] + frame["width"] + 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
