"""The page below the path prefix of a reverse proxy, in a real browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from enflow.service.settings import Settings
from tests.page.acting import generate
from tests.page.conftest import PATIENCE_MS, visiting
from tests.page.serving import browsing, missing
from tests.service import serving as service
from tests.service.fake_client import FakeClient
from tests.service.reverse_proxy import PREFIX, proxying


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the proxy in front of a service with a fake engine."""
    if reason := missing():
        pytest.skip(reason)
    settings = Settings(
        weights=service.weights_with_card(tmp_path_factory.mktemp("weights")), chemistry=service.one_worker()
    )
    with (
        service.serving(FakeClient(), settings) as (http, _),
        proxying(http.base_url, strips=True) as address,
    ):
        yield address


@pytest.fixture(scope="module")
def browser(proxy: str) -> Iterator[Browser]:
    with browsing() as found:
        yield found


@pytest.fixture
def page(browser: Browser, proxy: str) -> Iterator[Page]:
    """A page without an address; at the end it must have had no complaint, such as a script that was not found."""
    with visiting(browser, proxy) as open_page:
        yield open_page(f"{PREFIX[1:]}/")


def test_the_page_generates_below_a_prefix(page: Page, proxy: str) -> None:
    generate(page, count=1)
    page.locator("a", has_text="Description of the API").evaluate("link => link.click()")
    page.wait_for_url(f"{proxy}{PREFIX}/docs")
    expect(page.get_by_text("/likelihood").first).to_be_visible(timeout=PATIENCE_MS)
