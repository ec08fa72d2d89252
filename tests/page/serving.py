"""A service and a browser for tests, screenshots and measurements of the page."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Browser, sync_playwright

from tests.conftest import REPOSITORY

WEB = REPOSITORY / "service" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Without a GPU Chromium composes the page on the CPU, and with these options it draws WebGL there too. Root cannot use
# the sandbox.
FLAGS = [
    "--use-angle=swiftshader-webgl",
    "--disable-gpu-watchdog",  # on a busy machine it ends the process that draws, and WebGL with it
    "--enable-unsafe-swiftshader",
    "--no-sandbox",
    "--disable-background-networking",
]


def missing() -> str:
    """Return the reason why the page cannot be shown on this machine; empty if it can."""
    if browser_path() is None:
        return f"no browser: none of {', '.join(BROWSERS)} on PATH (`make browser` installs one)"
    return "" if (WEB / "dist" / "index.html").is_file() else "the page is not built: run `make page`"


def browser_path() -> str | None:
    """Return the path of the browser of this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def browsing(*flags: str) -> Iterator[Browser]:
    """Yield a browser with a new profile, and with further flags."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=[*FLAGS, *flags])
        yield browser
        browser.close()


@contextmanager
def serving(log: Path, weights: Path | None = None) -> Iterator[str]:
    """Start a service on a free port and yield its address when it is ready.

    Args:
        log: file for the output of the service.
        weights: directory of the weights; None = the bundled ones.

    Raises:
        RuntimeError: the service ended, or is not ready after ten minutes; with the end of its log.
    """
    command = [sys.executable, "-m", "enflow.service", "serve", "--port", "0", "--device", "cpu", "--threads", "1"]
    command += ["--weights", str(weights)] if weights else []
    jobs = {"ENFLOW_JOBS_URL": f"sqlite:///{log.with_suffix('.sqlite')}"}  # two services would share their jobs
    process_options = {"cwd": REPOSITORY, "env": os.environ | jobs}
    with log.open("w") as sink, subprocess.Popen(command, stdout=sink, stderr=sink, **process_options) as process:
        try:
            yield _address_when_ready(process, log)
        finally:
            process.terminate()


def _address_when_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    late = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < late:
        # The service takes the port itself: a port that was found free before can be taken in between.
        if started := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text()):
            try:
                if httpx.get(f"{started[1]}/health/ready", timeout=60).is_success:
                    return started[1]
            except httpx.TransportError:
                pass
        time.sleep(0.1)
    state = f"ended with {process.returncode}" if process.returncode is not None else "is not ready after ten minutes"
    raise RuntimeError(f"the service {state}:\n{log.read_text()[-2000:]}")
