"""The pictures of the page in the README, with the bundled weights: `make screenshots`."""

import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.conftest import REPOSITORY
from tests.page.serving import browsing, missing, serving

IMAGES = REPOSITORY / "docs" / "images"
SIZE = {"width": 1280, "height": 860}
PATIENCE_MS = 600_000


def generated(page: Page, address: str) -> None:
    """Show the first molecules of a seed, not selected, with estimates of their likelihoods."""
    page.goto(f"{address}/#generate?seed=7&count=8")
    expect(page.locator("#generate-form")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#generate .painter:visible").first).to_be_visible()


def flowing(page: Page, address: str) -> None:
    """Show one molecule at the time when types and bonds emerge."""
    page.goto(f"{address}/#flow?seed=7&index=7")
    expect(page.locator("#flow-form")).to_have_attribute("aria-busy", "false")
    page.locator("#flow-slider").fill("0.88")
    expect(page.locator("#flow-play")).to_have_text("Play")


def main() -> None:
    if reason := missing():
        raise SystemExit(reason)
    expect.set_options(timeout=PATIENCE_MS)
    log = Path(tempfile.mkdtemp()) / "service.log"
    with serving(log) as address, browsing() as browser:
        for name, show, scheme in (("generate", generated, "light"), ("watch", flowing, "dark")):
            page = browser.new_page(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
            page.set_default_timeout(PATIENCE_MS)
            show(page, address)
            page.wait_for_timeout(2000)  # no state says that every picture is painted; only the picture depends on it
            page.screenshot(path=IMAGES / f"page-{name}.png")
            page.close()


if __name__ == "__main__":
    main()
