"""Generated molecules: sampled, judged, labelled; on request sampled on until enough of them pass."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError
from enflow.service.chemistry.acceptance import Rejection, rejection
from enflow.service.chemistry.rdkit_pool import BondReport
from enflow.service.handlers.cancellation import unwrapped
from enflow.service.handlers.context import Caller, Emit, Usage, failure, refuse_nothing, silent, work_id
from enflow.service.handlers.progress import ProgressReporter
from enflow.service.handlers.served_model import ServedModel
from enflow.service.protocol.events import Done, Event, Failed, Progress, Reason, Sampled, Scored
from enflow.service.protocol.requests import EngineLikelihoodRequest, EngineSampleRequest, EstimatorOptions, Structure
from enflow.service.rendering.answer import Answer
from enflow.service.rendering.molecules import RenderedMolecule
from enflow.service.schemas.requests import SampleRequest, rtol


class Origin(NamedTuple):
    """What fixes the molecules of a request, beside the weights and their index."""

    seed: int
    tolerance: float


@dataclass
class SamplingHandler:
    """One /sample request under way: attempts run side by side, and every molecule is answered for.

    Molecule j of n tries the indices j, j + n, j + 2n, ... after `first_index` until one passes. So the answer depends
    on the seed alone, not on which molecule happened to finish first, and nothing is computed that nobody asked for.
    """

    desk: ServedModel
    request: SampleRequest
    seed: int
    caller: Caller
    emit: Emit
    usage: Usage = field(default_factory=Usage)
    tried: int = 0
    found: list[RenderedMolecule] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    async def run(self) -> Answer:
        """The whole answer, molecules in the order of their index.

        Raises:
            Problem: the request is refused, or nothing was finished in time.
        """
        self.desk.check_size(self.request.sizes, self.request.frames)
        self.progress = ProgressReporter(self.desk, self.emit)
        with unwrapped():
            async with self.tasks:
                self.tasks.create_task(self._attempt(self.request.first_index, self.request.sizes, first=True))
        refuse_nothing(self.found, self.failed)
        return self._answer()

    async def _attempt(self, first_index: int, sizes: tuple[int | None, ...], *, first: bool = False) -> None:
        request, tolerance = self.request, rtol(self.request.tolerance)
        wanted = EngineSampleRequest(
            id=work_id(),
            seed=self.seed,
            n_atoms=sizes,
            formula=request.formula,
            first_index=first_index,
            rtol=tolerance,
            atol=tolerance,
            frames=request.frames,
            progress=self.emit is not silent,
            client=self.caller.name,
            deadline=self.caller.last_step,
        )
        self.tried += len(sizes)
        async with self.desk.running(wanted, patient=not first) as events:
            if first:
                await self.emit("start", {**self.desk.heading(self.seed), "n_molecules": len(sizes)})
            async for event in events:
                await self._hear(event)

    @property
    def _origin(self) -> Origin:
        return Origin(self.seed, rtol(self.request.tolerance))

    async def _hear(self, event: Event) -> None:
        match event:
            case Progress():
                await self.progress.under_way(event, done=len(self.found), tried=self.tried)
            case Sampled():
                self.progress.finished(event.index)
                self.tasks.create_task(self._judge(event))
            case Failed():
                self.progress.finished(event.index)
                self._reject(event.index, Rejection(f"solver: {event.reason}", event.detail), event)
            case Done():
                self.desk.account(self.usage, event)

    async def _judge(self, sampled: Sampled) -> None:
        try:
            molecule = Molecule(sampled.atomic_numbers, sampled.positions)
        except StructureError as error:  # a bad sample can lie beyond any molecule
            beyond = Rejection("no structure", "atoms beyond all bounds")
            self._reject(sampled.index, beyond, Failed("", sampled.index, Reason.STRUCTURE, str(error)))
            return
        drawing = await self.desk.draw(molecule, self.usage)
        if against := rejection(self.request.only, drawing.bonds, drawing.unstable_atoms):
            self._reject(sampled.index, against)
            return
        score = await self._score(sampled.index, molecule) if self.request.with_nll else None
        shown = await generated(self.desk, self._origin, sampled, molecule, drawing, score)
        self.found.append(shown)
        self.desk.telemetry.molecules.labels("sampled", "stable" if drawing.stable else drawing.bonds.status).inc()
        await self.emit("molecule", {"molecule": shown.fields})

    async def _score(self, index: int, molecule: Molecule) -> Scored | Failed:
        tolerance = rtol(self.request.tolerance)
        wanted = EngineLikelihoodRequest(
            id=work_id(),
            molecules=(Structure(molecule.atomic_numbers, molecule.positions),),
            seed=self.seed,
            options=EstimatorOptions(rtol=tolerance, atol=tolerance),
            first_index=index,
            client=self.caller.name,
            deadline=self.caller.last_step,
        )
        score: Scored | Failed = Failed(wanted.id, index, Reason.ENGINE, "the engine sent no likelihood")
        async with self.desk.running(wanted, patient=True) as events:
            async for event in events:
                if isinstance(event, Scored | Failed):
                    score = event
                elif isinstance(event, Done):
                    self.desk.account(self.usage, event)
        return score

    def _reject(self, index: int, against: Rejection, failed: Failed | None = None) -> None:
        self.rejected[against.kind] += 1
        self.reasons[against.reason or against.kind] += 1
        self.desk.telemetry.molecules.labels("sampled", against.kind).inc()
        n = len(self.request.sizes)
        place, attempt = (index - self.request.first_index) % n, (index - self.request.first_index) // n
        late = failed is not None and failed.reason in (Reason.DEADLINE, Reason.CANCELLED)
        if self.request.only != "any" and attempt + 1 < self.desk.limits.max_attempts and not late:
            self.tasks.create_task(self._attempt(index + n, (self.request.sizes[place],)))
        elif failed is not None:
            self.failed.append({"index": index, "reason": str(failed.reason), "detail": failed.detail})
        else:
            detail = f"none of {attempt + 1} attempts was {self.request.only}"
            self.failed.append({"index": index, "reason": "attempts", "detail": detail})

    def _answer(self) -> Answer:
        found = sorted(self.found, key=lambda each: int(each.fields["index"]))
        document = {
            **self.desk.heading(self.seed),
            "molecules": [each.fields for each in found],
            "failed": sorted(self.failed, key=lambda each: int(each["index"])),
            "attempts": {
                "tried": self.tried,
                "found": len(found),
                "rejected": dict(self.rejected),
                "reasons": dict(self.reasons),
            },
            "usage": self.usage.document(),
        }
        return Answer(document, found)


async def generated(
    desk: ServedModel,
    origin: Origin,
    sampled: Sampled,
    molecule: Molecule,
    drawing: BondReport,
    score: Scored | Failed | None = None,
) -> RenderedMolecule:
    """A generated molecule as the API shows it."""
    seed, tolerance = origin
    weights = {"model": desk.card.name, "sha256": desk.card.sha256}
    whence = {"seed": seed, "index": sampled.index, **weights, "tolerance": tolerance}
    solver = {"nfe": sampled.nfe, "solver_status": sampled.status}
    scores: dict[str, Any] = {}
    numbers: dict[str, object] = {}
    if isinstance(score, Scored):
        scores = desk.numbers(score, molecule)
        numbers = {"nll": score.nll, "nll_std_error": score.std_error}
    elif score:
        scores = {"nll": None, "nll_error": failure(score)}
    frames = {"frames": [desk.frame(each) for each in sampled.frames]} if sampled.frames else {}
    shown = await desk.portray(molecule, drawing, {**whence, **solver, **numbers})
    return replace(shown, fields={"index": sampled.index, "seed": seed, **shown.fields, **solver, **scores, **frames})
