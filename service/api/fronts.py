"""Several processes that answer HTTP on one port (`ENFLOW_FRONTS`); this process runs their engines and watches them.

A front that ends is replaced. The engines, their queue and its shares are common to all fronts.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import uvicorn
from prometheus_client import multiprocess
from uvicorn.config import STARTUP_FAILURE

from enflow.model.errors import ConfigError
from enflow.service.api.app import create_app, read_cards
from enflow.service.api.auth import read_keys
from enflow.service.api.server import Server
from enflow.service.client.base import EngineClient
from enflow.service.client.remote_client import EngineServer, Model, remote_clients
from enflow.service.processes import UninterruptedProcess
from enflow.service.settings import Settings
from enflow.service.telemetry import METRICS_VARIABLE, configure_logs, log

POLL_S = 0.1
"""Seconds between two looks at the fronts."""

MOST_BYTES = 103 if sys.platform == "darwin" else 107
"""The most bytes that the system takes for the name of a Unix socket."""

PREFIX, SOCKET = "enflow-", "engines"
"""The folder that is made for the fronts, among the temporary files: its name begins so; and the socket in it."""


def serve_fronts(settings: Settings, clients: Mapping[Path, EngineClient]) -> None:
    """Run the engines and `settings.fronts` processes that answer HTTP, until a signal ends them.

    Args:
        settings: the settings of the service.
        clients: the clients of the engines by the folders of their weights; none is started.

    Raises:
        ConfigError: the port is taken, a file cannot be used, or a front does not start.
    """
    read_cards(settings)
    read_keys(settings.api_keys_file)
    check_temporary_folder()
    with _bound_socket(settings) as listening, tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        os.environ[METRICS_VARIABLE] = folder
        asyncio.run(_Fronts(settings, Path(folder) / SOCKET, listening).run(clients))


def check_temporary_folder() -> None:
    """Check that the socket of the engines can have its name in the folder of temporary files.

    Raises:
        ConfigError: the name would be too long.
    """
    folder = tempfile.gettempdir()
    size, most = len(os.fsencode(folder)), MOST_BYTES - len(f"/{PREFIX}12345678/{SOCKET}")
    if size > most:
        raise ConfigError(
            f"found the folder of temporary files {folder} of {size} bytes, expected at most {most}: the sockets of "
            "ENFLOW_FRONTS lie in it; TMPDIR names another one"
        )


def _bound_socket(settings: Settings) -> socket.socket:
    try:
        return uvicorn.Config("", host=settings.host, port=settings.port, log_config=None).bind_socket()
    except SystemExit:  # uvicorn has logged the reason
        where = f"{settings.host}:{settings.port}"
        raise ConfigError(f"the service did not start on {where}; its log says why") from None


class _Fronts:
    def __init__(self, settings: Settings, path: Path, listening: socket.socket) -> None:
        self._settings, self._path, self._listening = settings, path, listening
        self._stopping = asyncio.Event()
        self._processes: list[UninterruptedProcess] = []

    async def run(self, clients: Mapping[Path, EngineClient]) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)
        try:
            await asyncio.gather(*(client.start() for client in clients.values()))
            served = {Model.read(folder): client for folder, client in clients.items()}
            async with await EngineServer(served).start(self._path):
                await self._watch()
        finally:
            await asyncio.gather(*(client.close() for client in clients.values()))

    def _stop(self) -> None:
        # The first signal lets a front finish its requests, a second one ends it at once.
        self._stopping.set()
        for process in self._processes:
            process.terminate()

    async def _watch(self) -> None:
        if not self._stopping.is_set():
            self._processes = [self._started() for _ in range(self._settings.fronts)]
        while not self._stopping.is_set() or any(process.is_alive() for process in self._processes):
            for place, process in enumerate(self._processes):
                if not process.is_alive() and not self._stopping.is_set():
                    self._processes[place] = self._replaced(process)
            await asyncio.sleep(POLL_S)

    def _replaced(self, ended: UninterruptedProcess) -> UninterruptedProcess:
        log.error("front ended", pid=ended.pid, exit_code=ended.exitcode)
        multiprocess.mark_process_dead(ended.pid)  # type: ignore[no-untyped-call]
        if ended.exitcode == STARTUP_FAILURE:
            self._stop()
            raise ConfigError("a process that answers HTTP did not start; its log says why")
        return self._started()

    def _started(self) -> UninterruptedProcess:
        process = UninterruptedProcess(
            target=_serve, args=(self._settings, self._path, self._listening), name="enflow-front"
        )
        process.start()
        log.info("front started", pid=process.pid)
        return process


def _serve(settings: Settings, path: Path, listening: socket.socket) -> None:
    """Answer HTTP until a signal comes or the process of the engines ends."""
    os.setpgrp()  # Ctrl-C reaches the first process, which passes it on once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure_logs(settings.log_level)
    server = Server(create_app(settings, *remote_clients(settings, path)), settings)
    server.run([listening])
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a front is started by the process of the engines"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
