"""The handler of /sample: generate molecules, check them, score them; repeat until enough of them pass."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError
from enflow.model.flow.estimator_options import Divergence
from enflow.service.chemistry.rdkit_pool import BondReport
from enflow.service.handlers.cancellation import first_error
from enflow.service.handlers.context import HandlerContext, engine_request_id, require_results
from enflow.service.handlers.served_model import ProgressReporter, ServedModel
from enflow.service.protocol.events import Done, Event, Failed, Progress, Reason, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineLikelihoodRequest,
    EngineSampleRequest,
    EstimatorOptions,
    Structure,
)
from enflow.service.rendering.encoders import Answer
from enflow.service.rendering.molecules import RenderedMolecule, SampleResult, sorted_by_index
from enflow.service.schemas.requests import SampleRequest, rtol
from enflow.service.schemas.responses import AttemptsOut, FailedOut, MoleculeOut, ParticlesOut, SampleResponse
from enflow.service.schemas.stream_events import MoleculeEvent, StartEvent


@dataclass(frozen=True)
class Rejection:
    """The reason why a molecule is not kept: its kind, and a sentence that many molecules share."""

    kind: str
    reason: str


@dataclass
class SampleResults:
    """The molecules that were found, those that failed, and the counts of all attempts."""

    found: list[RenderedMolecule[MoleculeOut | ParticlesOut]] = field(default_factory=list)
    failed: list[FailedOut] = field(default_factory=list)
    tried: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def reject(self, rejection: Rejection) -> None:
        """Count a molecule that is not kept."""
        self.rejected[rejection.kind] += 1
        self.reasons[rejection.reason or rejection.kind] += 1

    @property
    def attempts(self) -> AttemptsOut:
        """The counts as the response shows them."""
        return AttemptsOut(
            tried=self.tried, found=len(self.found), rejected=dict(self.rejected), reasons=dict(self.reasons)
        )


class SamplingHandler:
    """The handler of one /sample request; its attempts run concurrently.

    Molecule j of n tries the indices j, j + n, j + 2n, ... after `first_index` until one passes. So the answer depends
    on the seed alone, not on the order in which molecules finish, and no molecule is computed without need.

    Args:
        served: the model.
        request: the request, with the sizes that the model generates.
        context: the seed, the caller and the stream of events.
    """

    def __init__(self, served: ServedModel, request: SampleRequest, context: HandlerContext) -> None:
        self._served = served
        self._request = request
        self._context = context
        self._results = SampleResults()
        self._progress = ProgressReporter(served, context.emit)
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> Answer:
        """Return the whole answer, molecules in the order of their index.

        Raises:
            Problem: the request is refused, or no molecule was finished in time.
        """
        request = self._request
        self._served.check_size(request.sizes, request.frames)
        with first_error():
            async with self._tasks:
                self._tasks.create_task(self._sample(request.first_index, request.sizes, first=True))
        require_results(self._results.found, self._results.failed)
        return self._answer()

    async def _sample(self, first_index: int, sizes: Sequence[int | None], *, first: bool = False) -> None:
        request = self._engine_request(first_index, sizes)
        self._results.tried += len(sizes)
        async with self._served.engine_events(request, wait=not first) as events:
            if first:
                await self._context.emit(
                    StartEvent(event="start", seed=self._context.seed, model=self._served.model, n_molecules=len(sizes))
                )
            async for event in events:
                await self._handle(event)

    def _engine_request(self, first_index: int, sizes: Sequence[int | None]) -> EngineSampleRequest:
        tolerance = rtol(self._request.tolerance)
        return EngineSampleRequest(
            id=engine_request_id(),
            seed=self._context.seed,
            n_atoms=tuple(sizes),
            formula=self._request.formula,
            first_index=first_index,
            rtol=tolerance,
            atol=tolerance,
            frames=self._request.frames,
            progress=self._context.streams,
            client=self._context.caller.name,
            deadline=self._context.caller.engine_deadline,
        )

    async def _handle(self, event: Event) -> None:
        match event:
            case Progress():
                await self._progress.update(event, done=len(self._results.found), tried=self._results.tried)
            case Sampled():
                self._progress.finish(event.index)
                self._tasks.create_task(self._finish(event))
            case Failed():
                self._progress.finish(event.index)
                self._reject(event.index, Rejection(f"solver: {event.reason}", event.detail), event)
            case Done():
                self._served.record(self._context.usage, event)

    async def _finish(self, sampled: Sampled) -> None:
        """Check a molecule, and score, render and emit it if it is kept."""
        try:
            molecule = Molecule(sampled.atomic_numbers, sampled.positions)
        except StructureError as error:  # the solver may place atoms outside the bounds of a molecule
            unbounded = Rejection("no structure", "atoms outside the bounds of a molecule")
            self._reject(sampled.index, unbounded, Failed("", sampled.index, Reason.STRUCTURE, str(error)))
            return
        report = await self._served.infer_bonds(molecule, self._context.usage)
        if rejection := reject(self._request, report):
            self._reject(sampled.index, rejection)
            return
        score = await self._score(sampled.index, molecule) if self._request.with_nll else None
        result = SampleResult(sampled, molecule, report, self._context.seed, rtol(self._request.tolerance), score)
        rendered = self._served.render_sample(result)
        self._results.found.append(rendered)
        self._count("stable" if report.stable else report.bonds.status)
        await self._context.emit(MoleculeEvent(event="molecule", molecule=rendered.document))

    async def _score(self, index: int, molecule: Molecule) -> Scored | Failed:
        tolerance = rtol(self._request.tolerance)
        # Particles have no types to dequantize and few dimensions: their density is exact and costs little.
        divergence: Divergence = "exact" if self._served.card.system else "hutchinson"
        request = EngineLikelihoodRequest(
            id=engine_request_id(),
            molecules=(Structure(molecule.atomic_numbers, molecule.positions),),
            seed=self._context.seed,
            options=EstimatorOptions(divergence, rtol=tolerance, atol=tolerance),
            first_index=index,
            client=self._context.caller.name,
            deadline=self._context.caller.engine_deadline,
        )
        score: Scored | Failed = Failed(request.id, index, Reason.ENGINE, "the engine sent no likelihood")
        async with self._served.engine_events(request, wait=True) as events:
            async for event in events:
                if isinstance(event, Scored | Failed):
                    score = event
                elif isinstance(event, Done):
                    self._served.record(self._context.usage, event)
        return score

    def _reject(self, index: int, rejection: Rejection, failed: Failed | None = None) -> None:
        """Count a molecule that is not kept, and try the next index of its place or record the failure."""
        request = self._request
        self._results.reject(rejection)
        self._count(rejection.kind)
        attempt, place = divmod(index - request.first_index, len(request.sizes))
        late = failed is not None and failed.reason in (Reason.DEADLINE, Reason.CANCELLED)
        if request.only != "any" and attempt + 1 < self._served.limits.max_attempts and not late:
            self._tasks.create_task(self._sample(index + len(request.sizes), (request.sizes[place],)))
        elif failed is not None:
            self._results.failed.append(FailedOut(index=index, reason=str(failed.reason), detail=failed.detail))
        else:
            detail = f"none of {attempt + 1} attempts was {request.only}"
            self._results.failed.append(FailedOut(index=index, reason="attempts", detail=detail))

    def _count(self, outcome: str) -> None:
        self._served.telemetry.molecules.labels("sampled", outcome).inc()

    def _answer(self) -> Answer:
        found = sorted_by_index(self._results.found)
        document = SampleResponse(
            seed=self._context.seed,
            model=self._served.model,
            molecules=[each.document for each in found],
            failed=sorted(self._results.failed, key=lambda each: each.index),
            attempts=self._results.attempts,
            usage=self._context.usage.document(),
        )
        return Answer(document, found)


def reject(request: SampleRequest, report: BondReport) -> Rejection | None:
    """Return the reason why a molecule does not pass `only`; None where it passes."""
    if request.only == "valid" and report.bonds.status != "ok":
        # The part after the semicolon names the atoms of one molecule.
        return Rejection("not valid", (report.bonds.reason or "no bonds").partition(";")[0])
    if request.only == "stable" and not report.stable:
        return Rejection("not stable", f"atoms without their valence by the distance table: {report.unstable_atoms}")
    return None
