"""The page in a browser that starts cold: when it paints first, what it transfers, how 64 molecules move.

First paint is measured beside a page of one line from the same service, in the same fresh browser: the rest is the
browser's own start. Frames are those of 64 molecules that are scrolled and turned; without a GPU the browser draws
them in software. `python -m benchmarks.page`, with the test extra and Chromium.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, expect

from benchmarks.measure import tell
from tests.page.serving import browsing, missing, serving

MOLECULES = 64
SECONDS = 6
PAINT = """() => new Promise((tell) => new PerformanceObserver((list) => {
  for (const { name, startTime } of list.getEntries()) if (name === "first-contentful-paint") tell(startTime);
}).observe({ type: "paint", buffered: true }))"""
FRAMES = """async (seconds) => {
  const times = [];
  const stages = [...document.querySelectorAll(".card .stage")];
  const begin = performance.now();
  while (performance.now() - begin < 1000 * seconds) {
    times.push(await new Promise(requestAnimationFrame));
    const share = 0.5 - 0.5 * Math.cos((performance.now() - begin) / 1000);
    scrollTo(0, share * (document.body.scrollHeight - innerHeight));
    const boxes = stages.map((stage) => stage.getBoundingClientRect());
    const seen = stages.filter((_, i) => boxes[i].top < innerHeight && boxes[i].bottom > 0);
    for (const stage of seen) stage.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  }
  return times;
}"""


def first_paint(address: str) -> float:
    """Milliseconds from the navigation of a fresh browser."""
    with browsing() as browser:
        page = browser.new_page()
        page.goto(address)
        return float(page.evaluate(PAINT))


def transferred(browser: Browser, address: str) -> int:
    """Bytes of the page with its pictures in 3D, as they come over the wire."""
    page, sizes = browser.new_page(), list[int]()
    page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    page.goto(f"{address}/#explore")
    page.wait_for_selector(".slot canvas")
    page.close()
    return sum(sizes)


def frames(browser: Browser, address: str) -> dict[str, float]:
    """Milliseconds between frames while all molecules are scrolled past, and those in sight turn."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(600_000)
    page.goto(f"{address}/#generate?seed=1&count={MOLECULES}&tolerance=draft&nll=none")
    expect(page.locator("#generate .card .formula")).to_have_count(MOLECULES, timeout=600_000)
    page.wait_for_selector("#generate-form[aria-busy=false]")
    page.wait_for_selector(".painter:not(.stale):visible")
    intervals = np.diff(_times(page))
    page.close()
    low, middle, high = np.quantile(intervals, [0.5, 0.95, 1.0]).tolist()
    return {"median": round(low, 1), "95 %": round(middle, 1), "longest": round(high, 1), "frames": len(intervals)}


def _times(page: Page) -> list[float]:
    found: list[float] = page.evaluate(FRAMES, SECONDS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="fresh browsers for each of the two pages")
    rounds = parser.parse_args().rounds
    if reason := missing():
        raise SystemExit(reason)
    with serving(Path(tempfile.mkdtemp()) / "service.log") as address:
        turns = [(first_paint(address), first_paint(f"{address}/docs/start.js")) for _ in range(rounds)]
        with browsing() as browser:
            size, moving = transferred(browser, address), frames(browser, address)
    page, line = (float(np.median(column)) for column in zip(*turns, strict=True))
    facts: dict[str, Any] = {
        "first_paint_ms": round(page),
        "one_line_ms": round(line),
        "transfer_kb": round(size / 1000),
        "frame_ms": moving,
    }
    rows = [[name, str(value)] for name, value in facts.items()]
    tell("page", "The page in a cold browser", ["", ""], rows, facts)


if __name__ == "__main__":
    main()
