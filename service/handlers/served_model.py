"""Where the endpoints meet the engine: works go out, events come back, and nothing is left behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from enflow.model.chem.formula import parse_formula
from enflow.model.chem.molecule import Molecule, check_vocabulary
from enflow.model.errors import ModelError, StructureError
from enflow.service.chemistry.rdkit_pool import BondReport, FileFormat, RDKitPool
from enflow.service.client.base import EngineClient
from enflow.service.handlers.context import Usage
from enflow.service.media_types import HTML, JSON, NDJSON, SDF, SSE, XYZ, ZIP
from enflow.service.model_card import ModelCard
from enflow.service.problems import Problem, retry_after
from enflow.service.protocol.events import Done, Event, Frame, Scored
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import Overloaded, Unavailable
from enflow.service.rendering.molecules import RenderedMolecule, frame_document, render_molecule, score_fields
from enflow.service.schemas.requests import SampleRequest
from enflow.service.settings import RequestLimits
from enflow.service.telemetry import Telemetry


@dataclass
class ServedModel:
    """What every endpoint works with: a model, its engine, and how what comes of it is read and shown."""

    formats: ClassVar[Sequence[str]] = (JSON, XYZ, SDF, NDJSON, SSE, HTML, ZIP)
    """What answers that are molecules can be; the first where the caller is indifferent."""

    client: EngineClient
    chemistry: RDKitPool
    card: ModelCard
    limits: RequestLimits
    telemetry: Telemetry
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self, work: EngineRequest, *, patient: bool = False) -> AsyncIterator[AsyncIterator[Event]]:
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

    async def _submit(self, work: EngineRequest, *, patient: bool) -> None:
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

    async def draw(self, molecule: Molecule, usage: Usage) -> BondReport:
        """The bonds of a molecule, their time added to the usage."""
        started = time.perf_counter()
        drawing = await self.chemistry.draw(molecule)
        usage.bonds_ms += 1000 * (time.perf_counter() - started)
        return drawing

    async def portray(
        self, molecule: Molecule, drawing: BondReport, properties: Mapping[str, object]
    ) -> RenderedMolecule:
        """A molecule as answers show it; `properties` go into its files."""
        return await render_molecule(self.chemistry, molecule, drawing, properties)

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


def _refusal(busy: Overloaded) -> Problem:
    name = "busy-client" if busy.scope == "client" else "unavailable"
    return Problem(name, str(busy), headers=retry_after(busy.retry_after))
