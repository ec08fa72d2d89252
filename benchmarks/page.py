"""The page in a browser that starts cold: when it paints first, what it transfers, how fluid 64 molecules are.

First paint is measured beside a page of one line from the same service, in the same fresh browser: the rest is the
browser's own start. Frames are those of 64 molecules that are scrolled past, and of one that is turned; without a GPU
the browser draws everything in software. `python -m benchmarks.page`, with the test extra and Chromium.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, expect

from benchmarks.measure import write_results
from tests.page.serving import browsing, missing, serving

MOLECULES = 64
SECONDS = 6
PAINT = """() => new Promise((tell) => new PerformanceObserver((list) => {
  for (const { name, startTime } of list.getEntries()) if (name === "first-contentful-paint") tell(startTime);
}).observe({ type: "paint", buffered: true }))"""
FRAMES = """async () => {
  const times = [];
  const start = performance.now();
  for (let s = 0; GOING; s = (performance.now() - start) / 1000) {
    times.push(await new Promise(requestAnimationFrame));
    STEP;
  }
  return times;
}"""
SCROLL = "scrollTo(0, (0.5 - 0.5 * Math.cos(s)) * (document.body.scrollHeight - innerHeight))"
TURN = """document.querySelector(".card .stage").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }))"""
A_WHILE = f"s < {SECONDS}"
ARRIVING = """document.querySelector("#generate-form").ariaBusy !== "false" || s < 1"""


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


def frames(browser: Browser, address: str) -> dict[str, dict[str, float]]:
    """Milliseconds between frames: scrolled while all arrive, when all are here, and while one is turned."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(600_000)
    page.goto(f"{address}/#generate?seed=1&count={MOLECULES}&tolerance=draft&nll=none")
    page.wait_for_selector("#generate .card .formula")
    found = {"while they arrive": measured(page, SCROLL, ARRIVING)}
    expect(page.locator("#generate canvas.painter")).to_have_count(MOLECULES, timeout=600_000)
    found |= {"scrolled": measured(page, SCROLL, A_WHILE)}
    page.evaluate("scrollTo(0, 0)")
    found |= {"one turned": measured(page, TURN, A_WHILE)}
    page.close()
    return found


def measured(page: Page, step: str, going: str) -> dict[str, float]:
    intervals = np.diff(page.evaluate(FRAMES.replace("STEP", step).replace("GOING", going)))
    middle, high, longest = np.quantile(intervals, [0.5, 0.95, 1.0]).tolist()
    return {"median": round(middle, 1), "95 %": round(high, 1), "longest": round(longest, 1), "frames": len(intervals)}


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
    write_results("page", "The page in a cold browser", ["", ""], rows, facts)


if __name__ == "__main__":
    main()
