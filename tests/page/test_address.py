"""The address of the page while a result and a change of the address meet.

The browser changes the address at once and sends `hashchange` later. Here the event is held back until the result has
arrived, so that the result always comes in between.
"""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.page.acting import Open, finished

HOLD = "addEventListener('hashchange', (event) => window.released || event.stopImmediatePropagation());"
RELEASE = "window.released = true; dispatchEvent(new HashChangeEvent('hashchange'));"
FORMS = {
    "generate": "#generate?count=1&atoms=3&tolerance=draft&nll=none",
    "grow": "#grow?count=1&core=benzene&tolerance=draft",
    "flow": "#flow?atoms=3&tolerance=draft&density=none",
}
"""Addresses that fill the forms; without a seed nothing runs."""


def submit(page: Page, section: str, address: str) -> None:
    """Send a form and change the address before anything else happens."""
    expect(page.locator(f"#{section}-form")).to_be_visible()
    page.wait_for_function(
        "section => document.getElementById(`${section}-form`).elements.tolerance.value === 'draft'", arg=section
    )
    page.locator(f"#{section}-form").evaluate(
        "(form, address) => { form.requestSubmit(); location.hash = address; }", address
    )
    expect(page.locator(f"#{section}-form")).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize("section", FORMS)
def test_a_result_leaves_the_address_of_another_view(visit: Open, section: str) -> None:
    page = visit(FORMS[section], script=HOLD)
    submit(page, section, "score")
    expect(page.locator(f"#{section}")).to_be_visible()
    expect(page).to_have_url(re.compile("#score$"))
    page.evaluate(RELEASE)
    expect(page.locator("#score")).to_be_visible()
    expect(page.locator(f"#{section}")).to_be_hidden()
    page.locator(f"nav a[href='#{section}']").click()
    expect(page).to_have_url(re.compile(rf"#{section}\?.*seed=\d"))


@pytest.mark.parametrize("section", FORMS)
def test_a_result_leaves_the_address_of_a_hidden_view(visit: Open, section: str) -> None:
    page = visit(FORMS[section], script=HOLD)
    page.evaluate("window.released = true")
    submit(page, section, "score")
    expect(page.locator("#score")).to_be_visible()
    expect(page).to_have_url(re.compile("#score$"))


def test_a_result_leaves_a_link_to_its_own_view(visit: Open) -> None:
    page = visit(FORMS["generate"], script=HOLD)
    submit(page, "generate", FORMS["generate"] + "&seed=5")
    page.evaluate(RELEASE)
    finished(page)
    expect(page.locator("#generate-note")).to_contain_text("seed 5")


def test_a_result_completes_an_empty_address(visit: Open) -> None:
    page = visit()
    finished(page)
    expect(page).to_have_url(re.compile(r"#generate\?.*seed=7"))


def test_who_skips_the_navigation_stays_in_the_view(visit: Open) -> None:
    page = visit("#score")
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    expect(page).to_have_url(re.compile("#score$"))
    expect(page.locator("#score")).to_be_visible()
