"""The handler of /sample: generate molecules, check them, score them; repeat until enough of them pass."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from enflow.model.chem.analysis.rejection import DUPLICATE, Rejection, rejection
from enflow.model.chem.molecule import Molecule
from enflow.model.config import ParticleConfig
from enflow.model.errors import StructureError
from enflow.service.chemistry.rdkit_pool import BondReport
from enflow.service.handlers.context import HandlerContext, first_error, require_results
from enflow.service.handlers.duplicates import DuplicateFilter
from enflow.service.handlers.served_model import ProgressReporter, ServedModel
from enflow.service.protocol.events import Done, Event, Failed, Progress, Reason, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    EstimatorOptions,
    Size,
    Structure,
    typical_size,
)
from enflow.service.rendering.encoders import Answer
from enflow.service.rendering.molecules import RenderedMolecule, SampleResult, in_order
from enflow.service.schemas.requests import SampleRequest, rtol
from enflow.service.schemas.responses import AttemptsOut, FailedOut, MoleculeOut, ParticlesOut, SampleResponse
from enflow.service.schemas.stream_events import MoleculeEvent, StartEvent

SHARES = {"valid": "inferred_validity", "stable": "molecule_stability", "connected": "inferred_whole"}
"""The share of generated molecules that pass `only`, by its name among the metrics of a card."""

ESTIMATED = 100
"""The most molecules of a request from whose sizes its time is estimated."""


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
        part: the places of the molecules to compute, counted from 0; None = all.
        fragment: the first atoms of all molecules, which stay where they are, as `read_fragment` returns them.
    """

    def __init__(
        self,
        served: ServedModel,
        request: SampleRequest,
        context: HandlerContext,
        part: range | None = None,
        fragment: Structure | None = None,
    ) -> None:
        sizes = request.sizes
        self._stride, self._part = len(sizes), part or range(len(sizes))
        self._sizes = sizes[self._part.start : self._part.stop]
        self._served = served
        self._request = request
        self._context = context
        self._fragment = fragment
        self._given = len(fragment.atomic_numbers) if fragment else 0
        self._results = SampleResults()
        self._duplicates = DuplicateFilter(self._part) if request.unique else None
        self._progress = ProgressReporter(served, context.emit)
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> Answer:
        """Return the whole answer, molecules in the order of their index.

        Raises:
            Problem: the request is refused, or no molecule was finished in time.
        """
        request = self._request
        self._served.check_size(self._sizes, request.frames)
        first_index = request.first_index + self._part.start
        with first_error():
            async with self._tasks:
                self._tasks.create_task(self._sample(first_index, self._sizes, first=True))
        require_results(self._results.found, self._results.failed)
        found = in_order(self._results.found, request.sort)
        return Answer(self.response([each.document for each in found]), found)

    async def _sample(self, first_index: int, sizes: Sequence[Size], *, first: bool = False) -> None:
        request = self.engine_request(first_index, sizes)
        self._results.tried += len(sizes)
        async with self._served.engine_events(request, wait=not first) as events:
            if first:
                await self._context.emit(
                    StartEvent(event="start", seed=self._context.seed, model=self._served.model, n_molecules=len(sizes))
                )
            async for event in events:
                await self._handle(event)

    def engine_request(self, first_index: int, sizes: Sequence[Size]) -> EngineRequest:
        """Return the engine request for molecules of these sizes."""
        tolerance = rtol(self._request.tolerance)
        return EngineSampleRequest(
            **self._context.engine_fields(),
            seed=self._context.seed,
            n_atoms=tuple(sizes),
            formula=self._request.formula,
            fragment=self._fragment,
            first_index=first_index,
            rtol=tolerance,
            atol=tolerance,
            temperature=self._request.temperature,
            refinements=self._refinements,
            frames=self._request.frames,
            progress=self._context.streams,
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
        report = await self._bond_report(molecule)
        if found := self.rejection(molecule, report) or await self._duplicate(sampled.index, report):
            self._reject(sampled.index, found)
            return
        score = await self._score(sampled.index, molecule) if self._request.with_nll else None
        request = self._request
        solved = self._context.seed, rtol(request.tolerance), self._sampler
        result = SampleResult(sampled, molecule, report, *solved, score, request.describes, self._given)
        rendered = await self.render(result)
        self._results.found.append(rendered)
        self._count("stable" if report.stable else report.bonds.status)
        await self._context.emit(MoleculeEvent(event="molecule", molecule=rendered.document))

    async def _bond_report(self, molecule: Molecule) -> BondReport:
        if not self._request.bonds:
            return self._served.omit_bonds(molecule)
        return await self._served.infer_bonds(molecule, self._context.usage, describe=self._request.describes)

    async def _duplicate(self, index: int, report: BondReport) -> Rejection | None:
        if self._duplicates is None or await self._duplicates.keeps(self._place(index), report.bonds.smiles):
            return None
        return DUPLICATE

    async def _score(self, index: int, molecule: Molecule) -> Scored | Failed:
        request = EngineLikelihoodRequest(
            **self._context.engine_fields(),
            molecules=(Structure(molecule.atomic_numbers, molecule.positions),),
            given=self._given,
            seed=self._context.seed,
            options=_score_options(self._served, rtol(self._request.tolerance)),
            first_index=index,
        )
        score: Scored | Failed = Failed(request.id, index, Reason.ENGINE, "the engine sent no likelihood")
        async with self._served.engine_events(request, wait=True) as events:
            async for event in events:
                if isinstance(event, Scored | Failed):
                    score = event
                elif isinstance(event, Done):
                    self._served.record(self._context.usage, event)
        return score

    @property
    def _refinements(self) -> int:
        return refinements_of(self._served, self._request)

    @property
    def _sampler(self) -> dict[str, float]:
        temperature, refinements = self._request.temperature, self._refinements
        cold = {"temperature": temperature} if temperature != 1 else {}
        return cold | ({"refinements": refinements} if refinements else {})

    def _place(self, index: int) -> int:
        return (index - self._request.first_index) % self._stride

    def _reject(self, index: int, found: Rejection, failed: Failed | None = None) -> None:
        """Count a molecule that is not kept, and try the next index of its place or record the failure."""
        self._results.reject(found)
        self._count(found.kind)
        attempt, place = (index - self._request.first_index) // self._stride, self._place(index)
        stopped = failed is not None and failed.reason in (Reason.DEADLINE, Reason.CANCELLED, Reason.ENGINE)
        if self.wanted and attempt + 1 < self._served.limits.max_attempts and not stopped:
            size = self._sizes[place - self._part.start]
            self._tasks.create_task(self._sample(index + self._stride, (size,)))
            return
        if self._duplicates:
            self._duplicates.settle(place)
        if failed is not None:
            self._results.failed.append(FailedOut(index=index, reason=str(failed.reason), detail=failed.detail))
        else:
            detail = f"none of {attempt + 1} attempts was {self.wanted}"
            self._results.failed.append(FailedOut(index=index, reason="attempts", detail=detail))

    def _count(self, outcome: str) -> None:
        self._served.telemetry.molecules.labels("sampled", outcome).inc()

    @property
    def wanted(self) -> str:
        """The condition on a molecule, such as "valid"; empty where none is tried in the place of a rejected one."""
        request = self._request
        conditions = {request.only: request.only != "any", "within the bounds": request.bounds, "new": request.unique}
        return " and ".join(condition for condition, holds in conditions.items() if holds)

    def rejection(self, molecule: Molecule, report: BondReport) -> Rejection | None:  # noqa: ARG002
        """Return the reason why a molecule is not kept; None where it is."""
        only, bounds = self._request.only, self._request.bounds
        return rejection(only, bounds, report.bonds, report.unstable_atoms, report.descriptors)

    async def render(self, result: SampleResult) -> RenderedMolecule[MoleculeOut | ParticlesOut]:
        """Return a molecule that is kept as the response shows it."""
        return self._served.render_sample(result)

    def response(self, molecules: Sequence[MoleculeOut | ParticlesOut]) -> SampleResponse:
        """Return the response with the molecules that were found."""
        request, fields = self._request, self._response_fields(molecules)
        fields |= {"sort": request.sort} if request.sort else {}
        return SampleResponse(**fields, temperature=request.temperature)

    def _response_fields(self, molecules: Sequence[MoleculeOut | ParticlesOut]) -> dict[str, Any]:
        """Return the fields of a response that samples and variations have."""
        return {
            "seed": self._context.seed, "model": self._served.model, "tolerance": rtol(self._request.tolerance),
            "refinements": self._refinements,
            "molecules": list(molecules), "failed": sorted(self._results.failed, key=lambda each: each.index),
            "attempts": self._results.attempts, "usage": self._context.usage.document(),
        }  # fmt: skip


def refinements_of(served: ServedModel, request: SampleRequest) -> int:
    """Return the number of refinements of each molecule of a request; where it has none, that of the model."""
    config = served.card.card.config
    default = 0 if isinstance(config, ParticleConfig) else config.refinements
    return default if request.refinements is None else request.refinements


def _score_options(served: ServedModel, tolerance: float) -> EstimatorOptions:
    # Particles have no types to dequantize and few dimensions: their density is exact and costs little.
    if served.card.system:
        return EstimatorOptions("exact", draws=1, rtol=tolerance, atol=tolerance)
    return EstimatorOptions(rtol=tolerance, atol=tolerance)


def sampling_seconds(served: ServedModel, request: SampleRequest) -> float:
    """Return the estimated time of one molecule of a request; 0 where the speed of the engine is not known."""
    largest = served.card.vocabulary.max_atoms
    sizes = tuple(min(typical_size(size), largest) for size in request.sizes[:ESTIMATED])
    tolerance = rtol(request.tolerance)
    share = float(served.card.card.metrics.get(SHARES.get(request.only, ""), 1.0))
    count = refinements_of(served, request)
    sampled = EngineSampleRequest(id="", seed=0, n_atoms=sizes, rtol=tolerance, atol=tolerance, refinements=count)
    seconds = min(1 / max(share, 0.01), served.limits.max_attempts) * served.seconds_for(sampled)
    if request.with_nll:
        molecules = tuple(Structure(np.zeros(size, dtype=np.int64), np.zeros((size, 3))) for size in sizes)
        scored = EngineLikelihoodRequest(id="", molecules=molecules, options=_score_options(served, tolerance))
        seconds += served.seconds_for(scored)
    return seconds / len(sizes)
