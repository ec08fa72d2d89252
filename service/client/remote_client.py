"""The client of engines that another process of this machine runs: several processes that answer HTTP share them.

`EngineServer` offers engine clients on a Unix socket, `RemoteClient` is the client of one of them in another process.
The socket lies in a folder of its own that only this user may open, since its messages are pickles. Each request has a
connection of its own: the engine aborts the request when its connection ends.
"""

import asyncio
import math
import pickle
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from enflow.model.card import read_card
from enflow.model.errors import EnflowError
from enflow.service.client.base import EngineClient
from enflow.service.client.request_tracker import Delivery, RequestTracker
from enflow.service.protocol.events import Done, Event, Reason
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Health, Stats, Unavailable
from enflow.service.settings import Settings

STATUS_S, PAUSE_S, END_S = 0.2, 0.5, 1.0
"""Seconds between two messages about the state of an engine, seconds before a lost connection is opened again, and
seconds that the server may take to close a connection."""

LOST = (OSError, asyncio.IncompleteReadError)
"""The exceptions of a connection that cannot be opened, or that ended."""

UNREACHED = "the process of the engines does not answer"

LENGTH_BYTES = 8
"""Bytes of the length before each message."""


@dataclass(frozen=True)
class Model:
    """The folder of a model and the SHA-256 of the weights that are to answer."""

    folder: Path
    sha256: str

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the model of a folder with the weights that it has now.

        Raises:
            WeightsError: the folder has no card.
        """
        return cls(folder, read_card(folder).weights_sha256)


@dataclass(frozen=True)
class EngineState:
    """The state of an engine."""

    stats: Stats
    health: Health

    @classmethod
    def of(cls, client: EngineClient) -> Self:
        """Return the present state."""
        return cls(client.stats(), client.health())


@dataclass(frozen=True)
class Watch:
    """Ask for the state of an engine, again and again until the connection ends."""

    model: Model


@dataclass(frozen=True)
class Run:
    """Ask an engine to run a request. The answer is None or the exception that refuses it, then the events.

    The state of the engine comes before `Done`, so that whoever has the answer finds it counted.
    """

    model: Model
    request: EngineRequest


class EngineServer:
    """The engine clients of this process, offered to `RemoteClient` in other processes.

    Args:
        clients: the clients of the models; their caller starts and closes them.
    """

    def __init__(self, clients: Mapping[Model, EngineClient]) -> None:
        self._clients = clients

    async def start(self, path: Path) -> asyncio.Server:
        """Listen on a Unix socket at `path`."""
        return await asyncio.start_unix_server(self._answer, path)

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            with suppress(*LOST):
                message = await _receive(reader)
                await _first_of(self._respond(message, writer), reader.read())  # the caller sends nothing more
        finally:
            writer.close()

    async def _respond(self, message: Watch | Run, writer: StreamWriter) -> None:
        client = self._clients.get(message.model)
        if client is None:
            await _send(writer, Unavailable(f"found no engine with weights of SHA-256 {message.model.sha256}"))
            return
        match message:
            case Watch():
                while True:
                    await _send(writer, EngineState.of(client))
                    await asyncio.sleep(STATUS_S)
            case Run(_, request):
                await self._run(client, request, writer)

    async def _run(self, client: EngineClient, request: EngineRequest, writer: StreamWriter) -> None:
        try:
            await client.submit(request)
        except EnflowError as refusal:
            await _send(writer, refusal)
            return
        try:
            await _send(writer, None)
            async for event in client.events(request.id):
                if isinstance(event, Done):
                    await _send(writer, EngineState.of(client))
                await _send(writer, event)
        finally:
            await client.abort(request.id)


class RemoteClient:
    """An `EngineClient` for one model of an `EngineServer`.

    Args:
        path: the socket of the server.
        model: the model.
    """

    def __init__(self, path: Path, model: Model) -> None:
        self._path, self._model = path, model
        self._tracker = RequestTracker()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._state = EngineState(Stats(), _not_ready("the engine is starting"))
        self._draining = False

    async def start(self) -> None:
        """Watch the engine; return at once."""
        self._watching = asyncio.create_task(self._watch())

    async def submit(self, request: EngineRequest) -> None:
        """Submit a request.

        Raises:
            Overloaded: the queue, or this client's share of it, is full.
            Unavailable: the engine accepts no requests now.
            ValueError: a request with this id was submitted before.
        """
        if self._draining:
            raise Unavailable("the engine is about to stop and accepts no new requests")
        self._tracker.add(request)
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks[request.id] = asyncio.create_task(self._run(request, accepted))
        try:
            await accepted
        except asyncio.CancelledError:
            await self.abort(request.id)
            raise

    def events(self, request_id: str) -> AsyncIterator[Event]:
        """Return the events of a request; `Done` is the last.

        Raises:
            KeyError: there is no request with this id.
        """
        return self._tracker.events(request_id)

    async def abort(self, request_id: str) -> None:
        """Abort a request; do nothing if it has ended."""
        if task := self._tasks.get(request_id):
            task.cancel()
            await asyncio.wait({task})
        self._tracker.fail(request_id, Reason.CANCELLED, "the request was cancelled")
        self._tracker.forget(request_id)

    async def drain(self, timeout: float) -> None:
        """Accept no new requests, and return when all have ended or after `timeout` seconds."""
        self._draining = True
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=timeout)

    def stats(self) -> Stats:
        """Return the last known state of the engine, and the counters of all its clients together."""
        return self._state.stats

    def health(self) -> Health:
        """Return the last known health of the engine."""
        return self._state.health

    async def close(self) -> None:
        """Stop; unfinished samples fail."""
        self._draining = True
        tasks = [*self._tasks.values(), *([self._watching] if self._watching else [])]
        for tracked in self._tracker.unfinished:
            self._tracker.fail(tracked.request.id, Reason.ENGINE, "the engine was stopped")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, request: EngineRequest, accepted: "asyncio.Future[None]") -> None:
        try:
            async with _connected(self._path) as (reader, writer):
                await _send(writer, Run(self._model, request))
                if refusal := await _receive(reader):
                    raise refusal
                accepted.set_result(None)
                delivery = Delivery.NONE
                while delivery is not Delivery.END:
                    message = await _receive(reader)
                    if isinstance(message, EngineState):
                        self._state = message
                    else:
                        delivery = self._tracker.deliver(message)
        except (*LOST, EnflowError) as error:
            if accepted.done():
                self._tracker.fail(request.id, Reason.ENGINE, "the connection to the engine was lost")
            else:
                self._tracker.forget(request.id)
                accepted.set_exception(error if isinstance(error, EnflowError) else Unavailable(UNREACHED))
        finally:
            self._tasks.pop(request.id, None)
            if not accepted.done():  # the client was closed meanwhile
                accepted.set_exception(Unavailable("the engine was stopped"))

    async def _watch(self) -> None:
        while True:
            reason = UNREACHED
            with suppress(*LOST):
                async with _connected(self._path) as (reader, writer):
                    await _send(writer, Watch(self._model))
                    while isinstance(state := await _receive(reader), EngineState):
                        self._state = state
                    reason = str(state)
            self._state = replace(self._state, health=_not_ready(reason))
            await asyncio.sleep(PAUSE_S)


def remote_clients(settings: Settings, path: Path) -> tuple[RemoteClient, dict[Path, RemoteClient]]:
    """Return the client of the first model, and the clients of the others by the folder of their weights."""
    further = {folder: RemoteClient(path, Model.read(folder)) for folder in settings.further}
    return RemoteClient(path, Model.read(settings.weights)), further


def _not_ready(reason: str) -> Health:
    return Health(True, False, reason, math.inf)


async def _first_of(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Cancel all when one has ended, and wait for the end of all."""
    tasks = {asyncio.ensure_future(each) for each in coroutines}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _connected(path: Path) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield reader, writer
    finally:
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(END_S):
                    writer.write_eof()
                    await reader.read()  # the server closes the connection when it has aborted the request
        finally:
            writer.close()


async def _send(writer: StreamWriter, message: Any) -> None:
    content = pickle.dumps(message)
    writer.write(len(content).to_bytes(LENGTH_BYTES) + content)
    await writer.drain()


async def _receive(reader: StreamReader) -> Any:
    length = int.from_bytes(await reader.readexactly(LENGTH_BYTES))
    return pickle.loads(await reader.readexactly(length))  # noqa: S301 - of this user's own process
