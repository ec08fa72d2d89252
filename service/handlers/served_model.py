"""A loaded model with its engine, its limits and its chemistry: all that a handler needs to compute an answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, ClassVar

from enflow.model.chem.analysis.metrics import stability
from enflow.model.chem.bonds import Bonds
from enflow.model.chem.formula import parse_formula
from enflow.model.chem.io.formats import FileFormat
from enflow.model.chem.molecule import Molecule, check_vocabulary
from enflow.model.errors import EnflowError, ModelError, StructureError, VocabularyError
from enflow.service.chemistry.rdkit_pool import BondReport, RDKitPool, Upload
from enflow.service.client.base import EngineClient
from enflow.service.handlers.context import Emit, Usage
from enflow.service.media_types import CSV, HTML, JSON, NDJSON, SDF, SSE, XYZ, ZIP
from enflow.service.model_card import ModelCard
from enflow.service.problems import At, Problem, retry_after
from enflow.service.protocol.events import Done, Event, Frame, Progress
from enflow.service.protocol.requests import EngineRequest, Size, sample_costs, typical_size
from enflow.service.protocol.status import Overloaded, Unavailable
from enflow.service.rendering.molecules import (
    RenderedMolecule,
    SampleResult,
    ScoreResult,
    render_frame,
    render_sample,
    render_score,
)
from enflow.service.schemas.requests import SampleRequest
from enflow.service.schemas.responses import (
    FrameOut,
    ModelOut,
    MoleculeOut,
    ParticleFrameOut,
    ParticleScoreOut,
    ParticlesOut,
    ScoreOut,
)
from enflow.service.schemas.stream_events import FrameEvent, ProgressEvent, QueueAhead, RunningMolecule
from enflow.service.settings import RequestLimits
from enflow.service.telemetry import Telemetry

PROGRESS_S = 0.2
"""Seconds between two events of progress: faster is not seen, and a long stream stays small."""


@dataclass(frozen=True)
class ParsedFiles:
    """The structures of some files, each a molecule or its error, and the name of each one's file, where it has one."""

    structures: list[Molecule | EnflowError]
    files: list[str | None]


@dataclass
class ServedModel:
    """A model of molecules with its engine, its limits and its chemistry.

    Attributes:
        client: the client of the engine.
        chemistry: the RDKit processes.
        card: the card of the weights.
        limits: the limits of one request.
        telemetry: the metrics.
        stopping: is set when the service stops.
        background: bounds the molecules of jobs whose bonds are inferred at once; None for a request that somebody
            waits for.
    """

    formats: ClassVar[Sequence[str]] = (JSON, XYZ, SDF, NDJSON, SSE, HTML, CSV, ZIP)
    """The media types of responses that hold molecules; the first is the default."""

    client: EngineClient
    chemistry: RDKitPool
    card: ModelCard
    limits: RequestLimits
    telemetry: Telemetry
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    background: asyncio.Semaphore | None = None

    @asynccontextmanager
    async def engine_events(self, request: EngineRequest, *, wait: bool = False) -> AsyncIterator[AsyncIterator[Event]]:
        """Submit a request to the engine and give its events; leaving the context by an error aborts the request.

        Args:
            request: the request.
            wait: wait for room in a full queue instead of a refusal, since a part of the answer is finished.

        Raises:
            Problem: busy-client or unavailable, with Retry-After.
        """
        await self._submit(replace(request, background=True) if self.background else request, wait=wait)
        try:
            yield self.client.events(request.id)
        except BaseException:
            await asyncio.shield(self.client.abort(request.id))
            raise

    async def _submit(self, request: EngineRequest, *, wait: bool) -> None:
        while True:
            try:
                await self.client.submit(request)
                return
            except Overloaded as full:
                if not wait:
                    raise _refusal(full) from None
                await asyncio.sleep(min(full.retry_after, 1.0))
            except Unavailable as error:
                raise Problem("unavailable", str(error), headers=retry_after(error.retry_after)) from None

    def seconds_for(self, request: EngineRequest) -> float:
        """Return the estimated time of a request on an idle engine; 0 where the speed of the engine is not known."""
        rate = self.client.stats().rate
        return sum(sample_costs(request)) / rate if rate else 0.0

    @property
    def model(self) -> ModelOut:
        """The name and the hash of the weights."""
        return ModelOut(name=self.card.name, sha256=self.card.sha256)

    async def infer_bonds(self, molecule: Molecule, usage: Usage, *, describe: bool = False) -> BondReport:
        """Return the bonds of a molecule, with its descriptors if asked for, and add the time to the usage."""
        started = time.perf_counter()
        async with self.background or nullcontext():
            report = await self.chemistry.bond_report(molecule, describe=describe)
        usage.bonds_ms += 1000 * (time.perf_counter() - started)
        return report

    def omit_bonds(self, molecule: Molecule) -> BondReport:
        """Return the report of a molecule whose bonds nobody asked for: the number of its stable atoms."""
        stable_atoms = int(stability([molecule]).stable_atoms[0])
        return BondReport(Bonds("omitted", version("rdkit")), stable_atoms, molecule.n_atoms)

    def render_sample(self, result: SampleResult) -> RenderedMolecule[MoleculeOut | ParticlesOut]:
        """Return a generated molecule as responses show it."""
        return render_sample(self.card, result)

    def render_score(self, result: ScoreResult) -> RenderedMolecule[ScoreOut | ParticleScoreOut]:
        """Return a scored structure as responses show it."""
        return render_score(self.card, result)

    def render_frame(self, frame: Frame) -> FrameOut | ParticleFrameOut:
        """Return a state along the path as responses show it."""
        return render_frame(self.card, frame)

    async def read(self, data: bytes, form: FileFormat | None) -> list[Molecule | StructureError]:
        """Return the structures of an upload in order, each a molecule or its error.

        Raises:
            StructureError: the file as a whole cannot be read.
            Problem: the time or the memory of the call was exceeded.
        """
        return await self.chemistry.read(data, form, self.limits.max_records)

    async def parse(self, files: Sequence[Upload], *, whole: bool = False) -> ParsedFiles:
        """Parse files in order, each record to a molecule as the model takes it or to the error that it has.

        Args:
            files: the files.
            whole: a file that cannot be read is an error of the request.

        Raises:
            Problem: more structures than `max_records`, or the parser took too much time or memory.
            StructureError: the request is one file and cannot be read.
        """
        read = self.read if whole else self._read_or_error
        parsed = await asyncio.gather(*(read(each.data, each.form) for each in files))
        structures = [structure for file in parsed for structure in file]
        names = [each.name for each, file in zip(files, parsed, strict=True) for _ in file]
        if len(structures) > self.limits.max_records:
            detail = f"found {len(structures)} structures, expected at most {self.limits.max_records}"
            raise Problem("invalid", detail)
        return ParsedFiles([self._prepare_or_error(each) for each in structures], names)

    async def _read_or_error(self, data: bytes, form: FileFormat | None) -> list[Molecule | StructureError]:
        try:
            return await self.read(data, form)
        except StructureError as error:
            return [error]

    def _prepare_or_error(self, structure: Molecule | StructureError) -> Molecule | EnflowError:
        try:
            return self.prepare_structure(structure) if isinstance(structure, Molecule) else structure
        except VocabularyError as error:
            return error

    def prepare_structure(self, structure: Molecule) -> Molecule:
        """Return an uploaded structure as the model takes it.

        Raises:
            VocabularyError: an element or a size that the model does not know.
        """
        check_vocabulary(structure, self.card.vocabulary)
        return structure

    def prepare_request(self, request: SampleRequest) -> SampleRequest:
        """Return a request with the sizes that the model generates for it.

        Raises:
            Problem: the model cannot generate such molecules.
        """
        if (request.fragment is not None) != self.card.takes_fragments:
            found = "no fragment" if self.card.takes_fragments else "a fragment"
            need = "the atoms around a fragment" if self.card.takes_fragments else "all atoms; see GET /models"
            detail = f"found {found}, but {self.card.name} generates {need}"
            raise Problem("invalid", detail, [At("/fragment", detail)])
        if request.formula is None:
            return request
        try:
            n_atoms = sum(parse_formula(request.formula, self.card.vocabulary))
        except ModelError as error:
            raise Problem("invalid", str(error)) from None
        return request.model_copy(update={"n_atoms": n_atoms})

    def record(self, usage: Usage, done: Done) -> None:
        """Add a finished engine request to the usage and to the metrics."""
        usage.add(done)
        self.telemetry.queue_seconds.observe(done.queue_ms / 1000)

    def progress_event(self, **fields: Any) -> ProgressEvent:
        """Return the state of the queue, with further fields of `ProgressEvent`."""
        stats, health = self.client.stats(), self.client.health()
        if not health.ready:
            fields["engine"] = health.reason
        queue = QueueAhead(ahead=stats.waiting, running=stats.running)
        return ProgressEvent(event="progress", queue=queue, eta_s=round(stats.queue_seconds, 2), **fields)

    def check_size(self, sizes: Sequence[Size], frames: int = 0) -> None:
        """Check the size of a request against the limits.

        Args:
            sizes: the number of atoms of each molecule; a range counts as its end, None as the largest of the model.
            frames: the number of frames of each molecule.

        Raises:
            Problem: the request is too large.
        """
        limits, largest = self.limits, self.card.vocabulary.max_atoms
        pairs, total = sum(min(typical_size(size, largest), largest) ** 2 for size in sizes), frames * len(sizes)
        if pairs > limits.max_pairs:
            raise Problem("invalid", f"found a sum of n_atoms squared of {pairs}, expected at most {limits.max_pairs}")
        if total > limits.max_total_frames:
            raise Problem("invalid", f"found {total} frames in all, expected at most {limits.max_total_frames}")


class ProgressReporter:
    """Emits the progress of the molecules of one request, at most five times a second."""

    def __init__(self, served: ServedModel, emit: Emit) -> None:
        self._served = served
        self._emit = emit
        self._running: dict[int, RunningMolecule] = {}
        self._emitted = 0.0

    async def update(self, event: Progress, **counts: int) -> None:
        """Record a step of a molecule; emit its frame, and the progress of all when it is due."""
        t, share = round(event.t, 4), round(event.share, 4)
        self._running[event.index] = RunningMolecule(index=event.index, t=t, nfe=event.nfe, share=share)
        if event.frame is not None:
            frame = self._served.render_frame(event.frame)
            await self._emit(FrameEvent(event="frame", index=event.index, frame=frame))
        if time.monotonic() - self._emitted >= PROGRESS_S:
            self._emitted = time.monotonic()
            await self._emit(self._served.progress_event(running=list(self._running.values()), **counts))

    def finish(self, index: int) -> None:
        """Record that a molecule left the device."""
        self._running.pop(index, None)


def _refusal(full: Overloaded) -> Problem:
    name = "busy-client" if full.scope == "client" else "unavailable"
    return Problem(name, str(full), headers=retry_after(full.retry_after))
