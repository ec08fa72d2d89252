"""A real server on a free port in a thread, for tests that need sockets."""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from service.app import create_app
from service.server import Server
from service.settings import ChemistrySettings, Settings
from service.worker import EngineClient

CARD = {
    "name": "tiny",
    "weights_sha256": hashlib.sha256(b"none").hexdigest(),
    "config": {"vocabulary": [1, 6, 7, 8, 9], "max_atoms": 29},
}


def weights_with_card(directory: Path) -> Path:
    (directory / "card.json").write_text(json.dumps(CARD))
    (directory / "weights.safetensors").write_bytes(b"none")
    return directory


def one_worker() -> ChemistrySettings:
    return ChemistrySettings(processes=1)


@contextlib.contextmanager
def serving(client: EngineClient, settings: Settings) -> Iterator[tuple[httpx.Client, Server]]:
    server = Server(create_app(settings, client), settings.model_copy(update={"port": 0}))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        try:
            yield http, server
        finally:
            server.should_exit = True
            thread.join()
