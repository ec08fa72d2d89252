"""The page in a new browser: time of the first paint, bytes transferred, and frame times with 64 molecules.

    python -m benchmarks.page

Needs the test extra and Chromium. The first paint is compared with that of a file of one line from the same service,
which shows the start-up time of the browser. The frames are those of scrolling past 64 molecules and of rotating one;
without a GPU the browser renders in software.
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
PAINT = """() => new Promise((resolve) => new PerformanceObserver((list) => {
  for (const { name, startTime } of list.getEntries()) if (name === "first-contentful-paint") resolve(startTime);
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
FOR_SIX_SECONDS = f"s < {SECONDS}"
GENERATING = """document.querySelector("#generate-form").ariaBusy !== "false" || s < 1"""


def first_paint(address: str) -> float:
    """Return the milliseconds from navigation to first paint in a new browser."""
    with browsing() as browser:
        page = browser.new_page()
        page.goto(address)
        return float(page.evaluate(PAINT))


def transferred(browser: Browser, address: str) -> int:
    """Return the bytes of the page and its 3D views, as transferred."""
    page, sizes = browser.new_page(), list[int]()
    page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    page.goto(f"{address}/#explore")
    page.wait_for_selector(".slot canvas")
    page.close()
    return sum(sizes)


def frames(browser: Browser, address: str) -> dict[str, dict[str, float]]:
    """Return the milliseconds between frames: scrolling during generation and after it, and rotating one molecule."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(600_000)
    page.goto(f"{address}/#generate?seed=1&count={MOLECULES}&tolerance=draft&nll=none")
    page.wait_for_selector("#generate .card .formula")
    found = {"during generation": measured(page, SCROLL, GENERATING)}
    expect(page.locator("#generate canvas.painter")).to_have_count(MOLECULES, timeout=600_000)
    found |= {"scrolling": measured(page, SCROLL, FOR_SIX_SECONDS)}
    page.evaluate("scrollTo(0, 0)")
    found |= {"rotating one": measured(page, TURN, FOR_SIX_SECONDS)}
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
    write_results("page", "The page in a new browser", ["", ""], rows, facts)


if __name__ == "__main__":
    main()
