"""The built page in a real browser, one for each module, with a real service and small models for all of them."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

from enflow.service.settings import PARTICLES
from tests.page.serving import browsing, missing, serving
from tests.service.serving import tiny_formula_weights, tiny_fragment_weights, tiny_particle_weights

PATIENCE_MS = 120_000
NO_WEBGL = "OffscreenCanvas.prototype.getContext = () => null;"
EXPECTED = ("status of 4", "GPU stall due to ReadPixels")
"""Messages that are expected: refused requests are part of some tests, and a software GPU is read back."""


def tiny_weights(directory: Path) -> Path:
    """Write weights of a small untrained model, which runs through the whole service quickly."""
    import torch

    from enflow.model.card import Card, Dataset
    from enflow.model.checkpoint import save
    from enflow.model.config import EGNNConfig, FlowConfig
    from enflow.model.flow.distributions import AtomCountPrior
    from enflow.model.flow.molecule_flow import MoleculeFlow

    torch.manual_seed(0)
    config = FlowConfig(dynamics=EGNNConfig(node_dim=8, edge_dim=4, n_layers=1, n_radial=4, output="velocity"))
    flow = MoleculeFlow(config)
    flow.n_atoms = AtomCountPrior.from_counts(range(30))
    dataset = Dataset("QM9", "0" * 64, "none")
    save(flow, directory, Card("tiny", "2026-01-01T00:00:00Z", "0000000", config, dataset, 0, "MIT", {}))
    digest = hashlib.sha256((directory / "weights.safetensors").read_bytes()).hexdigest()
    held_out = {"weights_sha256": digest, "nll": {"3": list(range(101))}}  # nats of as many molecules of three atoms
    (directory / "percentiles.json").write_text(json.dumps(held_out))
    return directory


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running service with models of molecules, formulas, fragments and both particle systems."""
    if reason := missing():
        pytest.skip(reason)
    weights = tiny_weights(tmp_path_factory.mktemp("weights") / "tiny")
    tiny_formula_weights(weights.with_name("tiny-formula"))
    tiny_fragment_weights(weights.with_name("tiny-fragment"))
    for name in PARTICLES:
        tiny_particle_weights(weights.with_name(name), name)
    with serving(tmp_path_factory.mktemp("log") / "service.log", weights) as address:
        yield address


@pytest.fixture(scope="module")
def browser(service: str) -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@dataclass
class Visit:
    """An open page with its errors, warnings and requests to other hosts."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def listen(self, service: str) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", lambda request: self._request(request, service))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(words in message.text for words in EXPECTED):
            self.complaints.append(f"{message.type}: {message.text}")

    def _request(self, request: Request, service: str) -> None:
        if not request.url.startswith((service, "data:", "blob:")):
            self.complaints.append(f"request to {request.url}")


@pytest.fixture
def visit(browser: Browser, service: str) -> Iterator[Callable[..., Page]]:
    """A function that opens the page at a fragment; at the end the page must have no complaint.

    A script or style that the content security policy refuses is an error on the console.
    """
    with visiting(browser, service) as open_page:
        yield open_page


@contextmanager
def visiting(browser: Browser, service: str) -> Iterator[Callable[..., Page]]:
    visits: list[Visit] = []
    contexts: list[BrowserContext] = []

    def open_page(fragment: str = "", *, webgl: bool = False, script: str = "", **options: Any) -> Page:
        context = browser.new_context(base_url=service, accept_downloads=True, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(script if webgl else NO_WEBGL + script)
        visits.append(Visit(context.new_page()))
        visits[-1].listen(service)
        visits[-1].page.goto(f"/{fragment}")
        return visits[-1].page

    yield open_page
    for context in contexts:
        context.close()
    assert [complaint for each in visits for complaint in each.complaints] == []


@pytest.fixture
def api(service: str) -> Iterator[httpx.Client]:
    """A client of the service, for the values that the page should show."""
    with httpx.Client(base_url=service, timeout=PATIENCE_MS / 1000) as client:
        yield client
