"""A service of one's own and a browser to look at it: for tests, screenshots and measurements of the page."""

import shutil
import socket
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
# As Chromium does it by itself where there is no GPU: it composes the page on the CPU, and draws WebGL there too, if it
# is allowed to. Root may not use the sandbox.
FLAGS = [
    "--use-angle=swiftshader-webgl",
    "--enable-unsafe-swiftshader",
    "--no-sandbox",
    "--disable-background-networking",
]


def missing() -> str:
    """What the page lacks to be looked at here; empty where nothing is."""
    if browser_path() is None:
        return f"no browser: none of {', '.join(BROWSERS)} on PATH (`make browser` installs one)"
    return "" if (WEB / "dist" / "index.html").is_file() else "the page is not built: run `make page`"


def browser_path() -> str | None:
    """The browser of this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser with a fresh profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def serving(log: Path, weights: Path | None = None) -> Iterator[str]:
    """The address of a running service, with the bundled weights or others.

    Raises:
        RuntimeError: it ended, or is not ready after two minutes; with the end of its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--device", "cpu"]
    command += ["--weights", str(weights)] if weights else []
    with log.open("w") as sink, subprocess.Popen(command, cwd=REPOSITORY, stdout=sink, stderr=sink) as process:
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_until_ready(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            if httpx.get(f"{address}/health/ready").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the service is not ready after two minutes:\n{log.read_text()[-2000:]}")
