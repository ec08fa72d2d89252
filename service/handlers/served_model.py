"""Where the endpoints meet the engine: works go out, events come back, and nothing is left behind."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from enflow.model.chem.formula import parse_formula
from enflow.model.chem.molecule import Molecule, check_vocabulary
from enflow.model.errors import ModelError, StructureError
from enflow.service.model_card import Card
from enflow.service.chemistry.rdkit_pool import Chemistry, Drawing, FileFormat
from enflow.service.api.negotiation import HTML, JSON, NDJSON, SDF, SSE, XYZ, ZIP
from enflow.service.rendering.molecules import Portrait, frame_document, portrait, score_fields
from enflow.service.problems import Problem, retry_after
from enflow.service.schemas.requests import SampleRequest
from enflow.service.settings import Limits
from enflow.service.telemetry import Telemetry
from enflow.service.protocol.requests import Done, Event, Frame, Overloaded, Reason, Scored, Unavailable, Work
from enflow.service.client.process_client import EngineClient

T = TypeVar("T")

Emit = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Tells the caller something as it happens: the name of the event and its fields."""


async def silent(_name: str, _fields: dict[str, Any]) -> None:
    """Tell nobody: the answer comes in one piece, and the engine need not report progress."""


@dataclass(frozen=True)
class Caller:
    """Who asks, by which request; when it came, and when its answer must be complete (seconds since the epoch)."""

    name: str
    request_id: str
    arrived: float
    deadline: float

    @property
    def last_step(self) -> float:
        """When the engine must stop, so that what is finished by then can still be told."""
        return self.deadline - min(0.5, 0.1 * (self.deadline - self.arrived))


@dataclass
class Usage:
    """What an answer cost; grows while it is computed."""

    queue_ms: float = 0.0
    integrate_ms: float = 0.0
    bonds_ms: float = 0.0
    nfe: int = 0

    def add(self, done: Done) -> None:
        """Add a work."""
        self.queue_ms = max(self.queue_ms, done.queue_ms)
        self.integrate_ms += done.integrate_ms
        self.nfe += done.nfe

    def document(self) -> dict[str, float]:
        """As the API shows it."""
        return {
            "queue_ms": round(self.queue_ms, 3),
            "integrate_ms": round(self.integrate_ms, 3),
            "bonds_ms": round(self.bonds_ms, 3),
            "nfe": self.nfe,
        }


@dataclass(frozen=True)
class Answer:
    """A whole answer: its JSON document, and its molecules for the formats that are files of molecules."""

    document: Mapping[str, Any]
    portraits: Sequence[Portrait]


@dataclass
class Desk:
    """What every endpoint works with: a model, its engine, and how what comes of it is read and shown."""

    formats: ClassVar[Sequence[str]] = (JSON, XYZ, SDF, NDJSON, SSE, HTML, ZIP)
    """What answers that are molecules can be; the first where the caller is indifferent."""

    client: EngineClient
    chemistry: Chemistry
    card: Card
    limits: Limits
    telemetry: Telemetry
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self, work: Work, *, patient: bool = False) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a work while it runs; whoever leaves before its end aborts it.

        A patient caller waits for room: he already has a part of his answer.

        Raises:
            Problem: busy-client or unavailable, with the time to come back.
        """
        await self._submit(work, patient=patient)
        try:
            yield self.client.events(work.id)
        except BaseException:
            await asyncio.shield(self.client.abort(work.id))
            raise

    async def _submit(self, work: Work, *, patient: bool) -> None:
        while True:
            try:
                await self.client.submit(work)
                return
            except Overloaded as busy:
                if not patient:
                    raise _refusal(busy) from None
                await asyncio.sleep(min(busy.retry_after, 1.0))
            except Unavailable as error:
                raise Problem("unavailable", str(error), headers=retry_after(5)) from None

    def heading(self, seed: int) -> dict[str, Any]:
        """What fixes an answer: the seed and the weights."""
        return {"seed": seed, "model": {"name": self.card.name, "sha256": self.card.sha256}}

    async def draw(self, molecule: Molecule, usage: Usage) -> Drawing:
        """The bonds of a molecule, their time added to the usage."""
        started = time.perf_counter()
        drawing = await self.chemistry.draw(molecule)
        usage.bonds_ms += 1000 * (time.perf_counter() - started)
        return drawing

    async def portray(self, molecule: Molecule, drawing: Drawing, properties: Mapping[str, object]) -> Portrait:
        """A molecule as answers show it; `properties` go into its files."""
        return await portrait(self.chemistry, molecule, drawing, properties)

    def frame(self, frame: Frame) -> dict[str, Any]:
        """A frame of its way as answers show it."""
        return frame_document(frame)

    def numbers(self, scored: Scored, molecule: Molecule) -> dict[str, Any]:
        """Its score as answers show it."""
        return score_fields(self.card, scored, molecule.n_atoms)

    async def read(self, data: bytes, form: FileFormat | None) -> list[Molecule | StructureError]:
        """The structures of an upload in order, each a molecule or what is wrong with it.

        Raises:
            StructureError: the file as a whole cannot be read.
            Problem: reading it took too long or too much memory.
        """
        return await self.chemistry.read(data, form)

    def taken(self, structure: Molecule) -> Molecule:
        """A structure from outside as the model takes it.

        Raises:
            VocabularyError: it does not know that.
        """
        check_vocabulary(structure, self.card.vocabulary)
        return structure

    def settled(self, asked: SampleRequest) -> SampleRequest:
        """A request with the sizes that the model gives it.

        Raises:
            Problem: the model cannot make that.
        """
        if asked.formula is None:
            return asked
        try:
            return asked.model_copy(update={"n_atoms": sum(parse_formula(asked.formula, self.card.vocabulary))})
        except ModelError as error:
            raise Problem("invalid", str(error)) from None

    def account(self, usage: Usage, done: Done) -> None:
        """Add a finished work to the usage and to the metrics."""
        usage.add(done)
        self.telemetry.queue_seconds.observe(done.queue_ms / 1000)

    def queue(self) -> dict[str, Any]:
        """How many molecules wait and run, how long the queue will take, and why the engine is not ready yet."""
        stats, health = self.client.stats(), self.client.health()
        return {
            "queue": {"ahead": stats.waiting, "running": stats.running},
            "eta_s": round(stats.queue_seconds, 2),
            **({} if health.ready else {"engine": health.reason}),
        }

    def check_size(self, sizes: Sequence[int | None], frames: int = 0) -> None:
        """Raise where a request is more than one request may be.

        Raises:
            Problem: too much work for the limits.
        """
        limits, largest = self.limits, self.card.vocabulary.max_atoms
        pairs, total = sum((size or largest) ** 2 for size in sizes), frames * len(sizes)
        if pairs > limits.max_pairs:
            raise Problem("invalid", f"found a sum of n_atoms squared of {pairs}, expected at most {limits.max_pairs}")
        if total > limits.max_total_frames:
            raise Problem("invalid", f"found {total} frames in all, expected at most {limits.max_total_frames}")


def work_id() -> str:
    """A new name for a work."""
    return secrets.token_hex(8)


def drawn_seed() -> int:
    """A seed for a request that names none."""
    return secrets.randbelow(2**31)


def _refusal(busy: Overloaded) -> Problem:
    name = "busy-client" if busy.scope == "client" else "unavailable"
    return Problem(name, str(busy), headers=retry_after(busy.retry_after))


async def unless_stopped(work: Awaitable[T], gone: Awaitable[None], stopping: asyncio.Event, deadline: float) -> T:
    """The result of a coroutine; it is cancelled where its caller goes away, its time is up or the service stops.

    Raises:
        Problem: deadline, unavailable.
        CallerGone: nobody is there to hear it.
    """
    main, left, stopped = (
        asyncio.ensure_future(work),
        asyncio.ensure_future(gone),
        asyncio.ensure_future(stopping.wait()),
    )
    try:
        time_left = max(0.0, deadline - time.time())
        await asyncio.wait((main, left, stopped), timeout=time_left, return_when=asyncio.FIRST_COMPLETED)
        if main.done():
            return main.result()
        if left.done():
            raise CallerGone
        if stopped.done():
            raise Problem("unavailable", "the service stopped before the work was done", headers=retry_after(10))
        raise Problem("deadline", "the deadline passed before the answer was complete")
    finally:
        for task in (main, left, stopped):
            task.cancel()
        await asyncio.gather(main, left, stopped, return_exceptions=True)


def refuse_nothing(found: Sequence[object], failed: Sequence[Mapping[str, Any]]) -> None:
    """Raise where the deadline, or the engine, left nothing to answer with.

    Raises:
        Problem: deadline, unavailable.
    """
    if not found and failed:
        name = problem_name(Reason(failed[0]["reason"])) if failed[0]["reason"] in set(Reason) else "invalid"
        if name != "invalid":
            raise Problem(name, f"nothing was finished; the first of {len(failed)} molecules: {failed[0]['reason']}")


def problem_name(reason: Reason) -> str:
    """The kind of problem behind a molecule that failed."""
    if reason == Reason.DEADLINE:
        return "deadline"
    return "unavailable" if reason in (Reason.ENGINE, Reason.CANCELLED) else "invalid"


@contextmanager
def unwrapped() -> Iterator[None]:
    """Of tasks that ran side by side, raise what went wrong first, not the group of it."""
    try:
        yield
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None


class CallerGone(Exception):  # noqa: N818 - an event, not a failure
    """The client closed its connection."""
