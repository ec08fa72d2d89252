"""A real server on a free port, in a thread, and the weights that it serves in tests."""

import contextlib
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import torch

from enflow.model import checkpoint
from enflow.model.card import Card, Dataset
from enflow.model.config import DequantizerConfig, EGNNConfig, FlowConfig, FragmentConfig, ParticleConfig
from enflow.model.config_json import to_json
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.service.api.app import create_app
from enflow.service.api.server import Server
from enflow.service.client.base import EngineClient
from enflow.service.settings import ChemistrySettings, Settings


def some_card(name: str, **config: object) -> Card:
    """The card of a model of molecules whose weights are the bytes "none"."""
    sha256 = hashlib.sha256(b"none").hexdigest()
    dataset = Dataset("none", "0" * 64, "none")
    return Card(name, "2026-01-01T00:00:00Z", "0" * 7, FlowConfig(**config), dataset, 0, "MIT", {}, sha256)  # type: ignore[arg-type]


CARD = to_json(some_card("tiny"))


def weights_with_card(directory: Path) -> Path:
    """Write a card beside a file that is no weights, for an application whose engine is fake."""
    (directory / "card.json").write_text(json.dumps(CARD))
    (directory / "weights.safetensors").write_bytes(b"none")
    return directory


def tiny_weights(directory: Path) -> Path:
    """Save a small flow with random weights."""
    dynamics = EGNNConfig(node_dim=8, edge_dim=4, n_layers=1, n_radial=4, output="velocity")
    return _saved(FlowConfig(dynamics=dynamics), directory, "tiny")


def tiny_formula_weights(directory: Path) -> Path:
    """Save a small flow that takes formulas, with random weights."""
    dynamics = EGNNConfig(node_dim=8, edge_dim=4, n_layers=1, n_radial=4, output="still")
    config = FlowConfig(dynamics=dynamics, dequantizer=DequantizerConfig("given", capacity=4))
    return _saved(config, directory, "tiny-formula")


def tiny_fragment_weights(directory: Path) -> Path:
    """Save a small flow of the atoms around a fragment, with random weights."""
    dynamics = FragmentConfig(node_dim=16, edge_dim=8, n_vectors=4, n_layers=2, n_radial=4)
    return _saved(FlowConfig(dynamics=dynamics), directory, "tiny-fragment")


def tiny_particle_weights(directory: Path, data: str) -> Path:
    """Save a small flow of the particle system "dw4" or "lj13", with random weights."""
    n_particles, n_dims, scale = {"dw4": (4, 2, 2.1), "lj13": (13, 3, 0.9)}[data]
    dynamics = EGNNConfig(n_features=0, node_dim=8, edge_dim=4, n_layers=1, n_radial=4, output="velocity")
    config = ParticleConfig(n_particles=n_particles, n_dims=n_dims, scale=scale, dynamics=dynamics)
    return _saved(config, directory, data, data)


def _saved(config: FlowConfig | ParticleConfig, directory: Path, name: str, data: str = "none") -> Path:
    torch.manual_seed(0)
    dataset = checkpoint.Dataset(data, "0" * 64, "none")
    card = checkpoint.Card(name, "2026-01-01T00:00:00Z", "0" * 7, config, dataset, 0, "MIT", {})
    checkpoint.save(_flow(config), directory, card)
    return directory


def _flow(config: FlowConfig | ParticleConfig) -> MoleculeFlow | FragmentFlow | ParticleFlow:
    if isinstance(config, ParticleConfig):
        return ParticleFlow(config)
    return FragmentFlow(config) if isinstance(config.dynamics, FragmentConfig) else MoleculeFlow(config)


def one_worker() -> ChemistrySettings:
    """Return the settings of one RDKit process, with limits that a slow machine keeps."""
    return ChemistrySettings(processes=1, bonds_s=120, read_s=120)


@contextlib.contextmanager
def serving(
    client: EngineClient, settings: Settings, further: Mapping[Path, EngineClient] | None = None
) -> Iterator[tuple[httpx.Client, Server]]:
    """Serve an application while the context lasts; `client` and `further` as `create_app` takes them."""
    with contextlib.ExitStack() as stack:
        if settings.jobs_url == os.environ.get("ENFLOW_JOBS_URL"):  # two services on one database share their jobs
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            settings = settings.model_copy(update={"jobs_url": f"sqlite:///{folder}/jobs.sqlite"})
        yield from _served(client, settings, further)


def _served(
    client: EngineClient, settings: Settings, further: Mapping[Path, EngineClient] | None
) -> Iterator[tuple[httpx.Client, Server]]:
    server = Server(create_app(settings, client, further), settings.model_copy(update={"port": 0}))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
        try:
            yield http, server
        finally:
            server.should_exit = True
            thread.join()
