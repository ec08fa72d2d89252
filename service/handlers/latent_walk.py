"""The handler of /interpolate: encode the parents, move their latents, decode the latents."""

import asyncio
from collections.abc import Sequence

import numpy as np

from enflow.model.chem.molecule import Molecule
from enflow.model.config import MAX_RETURN_ERROR, TOLERANCES
from enflow.model.errors import EnflowError, StructureError
from enflow.service.handlers.context import (
    HandlerContext,
    failure_problem,
    first_error,
    require_results,
)
from enflow.service.handlers.latent_geometry import aligned, match, rmsd, spherical
from enflow.service.handlers.served_model import ProgressReporter, ServedModel
from enflow.service.problems import Problem, from_structure
from enflow.service.protocol.events import Done, Encoded, Event, Failed, Progress, Reason, Sampled
from enflow.service.protocol.requests import EngineDecodeRequest, EngineEncodeRequest, LatentArrays, Structure
from enflow.service.rendering.encoders import Answer
from enflow.service.rendering.molecules import RenderedMolecule, SampleResult, sorted_by_index
from enflow.service.schemas.requests import InterpolateOptions, rtol
from enflow.service.schemas.responses import FailedOut, MoleculeOut, WalkResponse
from enflow.service.schemas.stream_events import MoleculeEvent, StartEvent

TIGHTER, FINEST = 0.01, 1e-10
"""The factor on the tolerance of a walk, and the smallest tolerance that is tried.

Encoding and decoding multiply the solver's error; benchmarks/bench_inverse.py measures by how much. A precise walk
begins at 1e-7, decodes its parents, and continues with a smaller tolerance only where they do not come back.
"""


class LatentWalkHandler:
    """The handler of one /interpolate request.

    Args:
        served: the model.
        options: the walk.
        structures: the uploaded structures in order, each a molecule or its error.
        context: the seed, the caller and the stream of events.
        part: the places of the molecules to compute, counted from 0; None = all.
    """

    def __init__(
        self,
        served: ServedModel,
        options: InterpolateOptions,
        structures: Sequence[Molecule | EnflowError],
        context: HandlerContext,
        part: range | None = None,
    ) -> None:
        self._part = part or range(options.steps)
        self._served = served
        self._options = options
        self._structures = structures
        self._context = context
        self._decoding = Decoding(served, options, context, self._part)
        self._tolerance = TIGHTER * rtol(options.tolerance)

    async def run(self) -> Answer:
        """Return the whole answer, molecules in the order of the walk.

        Raises:
            Problem: the structures do not fit the walk, or the engine cannot encode them.
        """
        parents = parents_of(self._structures, 2)
        self._served.check_size([len(parents[0].atomic_numbers)] * len(self._part))
        latents = await self._encode_accurately(parents)
        moved = await asyncio.to_thread(move_latents, latents, parents, self._options, self._part)
        return await self._decoding.run(moved, parents, self._tolerance)

    async def _encode_accurately(self, parents: Sequence[Structure]) -> list[LatentArrays]:
        """Return the latents of the parents; a precise walk reduces the tolerance until the parents come back."""
        latents = await self._encode(parents, first=True)
        if rtol(self._options.tolerance) > TOLERANCES["precise"]:
            return latents
        while self._tolerance > 1.5 * FINEST and not await self._come_back(latents, parents):
            self._tolerance /= 10
            try:
                latents = await self._encode(parents)
            except Problem as problem:
                if problem.name != "invalid":
                    raise
                self._tolerance *= 10  # the solver cannot follow a smaller one: use the last latents
                break
        return latents

    async def _come_back(self, latents: Sequence[LatentArrays], parents: Sequence[Structure]) -> bool:
        request = decode_request(self._context, latents, self._tolerance)
        near = 0
        async with self._served.engine_events(request, wait=True) as events:
            async for event in events:
                if isinstance(event, Sampled):
                    near += _is_near(event, parents[event.index])
                elif isinstance(event, Done):
                    self._served.record(self._context.usage, event)
        return near == len(parents)

    async def _encode(self, parents: Sequence[Structure], *, first: bool = False) -> list[LatentArrays]:
        request = EngineEncodeRequest(
            **self._context.engine_fields(),
            molecules=tuple(parents),
            seed=self._context.seed,
            rtol=self._tolerance,
            atol=self._tolerance,
        )
        latents: dict[int, LatentArrays] = {}
        async with self._served.engine_events(request, wait=not first) as events:
            if first:
                await self._decoding.start()
            async for event in events:
                match event:
                    case Encoded():
                        latents[event.index] = event.latent
                    case Failed():
                        detail = f"structure {event.index + 1} cannot be encoded: {event.reason}"
                        raise failure_problem(event.reason, detail)
                    case Done():
                        self._served.record(self._context.usage, event)
        return [latents[i] for i in range(len(parents))]


class Decoding:
    """The second half of a walk: latents are decoded, and each molecule is compared with the parents."""

    def __init__(self, served: ServedModel, options: InterpolateOptions, context: HandlerContext, part: range) -> None:
        self._served = served
        self._options = options
        self._part = part
        self._context = context
        self._found: list[RenderedMolecule[MoleculeOut]] = []
        self._failed: list[FailedOut] = []
        self._progress = ProgressReporter(served, context.emit)
        self._warnings: list[str] = []
        self._tasks = asyncio.TaskGroup()

    async def start(self) -> None:
        """Emit the start of the walk."""
        start = StartEvent(
            event="start", seed=self._context.seed, model=self._served.model, n_molecules=len(self._part)
        )
        await self._context.emit(start)

    async def run(self, latents: Sequence[LatentArrays], parents: Sequence[Structure], tolerance: float) -> Answer:
        """Return the whole answer, molecules in the order of the walk.

        Raises:
            Problem: no molecule was finished in time.
        """
        with first_error():
            async with self._tasks:
                self._tasks.create_task(self._decode(latents, parents, tolerance))
        require_results(self._found, self._failed)
        found = sorted_by_index(self._found)
        document = WalkResponse(
            seed=self._context.seed,
            model=self._served.model,
            tolerance=tolerance,
            refinements=0,
            molecules=[each.document for each in found],
            failed=self._failed,
            usage=self._context.usage.document(),
            warnings=sorted(self._warnings),
        )
        return Answer(document, found)

    async def _decode(self, latents: Sequence[LatentArrays], parents: Sequence[Structure], tolerance: float) -> None:
        request = decode_request(self._context, latents, tolerance, self._part.start, progress=self._context.streams)
        async with self._served.engine_events(request, wait=True) as events:
            async for event in events:
                await self._handle(event, parents, tolerance)

    async def _handle(self, event: Event, parents: Sequence[Structure], tolerance: float) -> None:
        match event:
            case Progress():
                await self._progress.update(event, done=len(self._found))
            case Sampled():
                self._progress.finish(event.index)
                self._tasks.create_task(self._finish(event, parents, tolerance))
            case Failed():
                self._fail(event.index, event.reason, event.detail)
            case Done():
                self._served.record(self._context.usage, event)

    async def _finish(self, sampled: Sampled, parents: Sequence[Structure], tolerance: float) -> None:
        try:
            molecule = Molecule(sampled.atomic_numbers, sampled.positions)
        except StructureError as error:
            self._fail(sampled.index, Reason.STRUCTURE, str(error))
            return
        report = await self._served.infer_bonds(molecule, self._context.usage)
        # A large molecule takes tens of milliseconds, during which no other request would be answered.
        structure = Structure(molecule.atomic_numbers, molecule.positions)
        distances = await asyncio.to_thread(distances_from, structure, parents)
        self._check_return(structure, sampled.index, parents, distances)
        relation = {"fraction": path_fraction(self._options, sampled.index), **distances}
        result = SampleResult(sampled, molecule, report, self._context.seed, tolerance, relation=relation)
        found = self._served.render_sample(result)
        assert isinstance(found.document, MoleculeOut), "walks are between molecules"
        self._found.append(RenderedMolecule(found.molecule, found.bonds, found.sdf, found.document))
        await self._context.emit(MoleculeEvent(event="molecule", molecule=found.document))

    def _check_return(
        self, structure: Structure, place: int, parents: Sequence[Structure], distances: dict[str, float]
    ) -> None:
        ends = {0: ("distance", 0), self._options.steps - 1: ("distance_to_end", 1)}
        if place not in ends:
            return
        name, parent = ends[place]
        changed = sorted(structure.atomic_numbers) != sorted(parents[parent].atomic_numbers)
        if changed or distances[name] > MAX_RETURN_ERROR:
            found = (
                f"structure {parent + 1}: found a distance of {distances[name]:.2g} angstrom"
                f"{' and other elements' if changed else ''} after encoding and decoding, expected "
                f"{MAX_RETURN_ERROR:g} at most; a smaller tolerance may help"
            )
            if self._options.on_mismatch == "fail":
                raise Problem("invalid", found)
            self._warnings.append(found)

    def _fail(self, index: int, reason: Reason, detail: str) -> None:
        self._progress.finish(index)
        self._failed.append(FailedOut(index=index, reason=str(reason), detail=detail))


def parents_of(structures: Sequence[Molecule | EnflowError], expected: int) -> list[Structure]:
    """Return the structures between or around which molecules are generated.

    Raises:
        Problem: a structure cannot be read, or their number or their sizes do not fit.
    """
    for each in structures:
        if isinstance(each, EnflowError):
            raise from_structure(each)
    molecules = [each for each in structures if isinstance(each, Molecule)]
    if len(molecules) != expected:
        raise Problem("invalid", f"found {len(molecules)} structures, expected {expected}")
    if len({each.n_atoms for each in molecules}) > 1:
        first, second = (each.n_atoms for each in molecules)
        raise Problem("invalid", f"found {first} and {second} atoms, expected two structures of equally many atoms")
    return [Structure(each.atomic_numbers, each.positions) for each in molecules]


def path_fraction(options: InterpolateOptions, place: int) -> float:
    """Return the share of the path of a molecule, 0 to 1."""
    return place / (options.steps - 1)


def move_latents(
    latents: Sequence[LatentArrays], parents: Sequence[Structure], options: InterpolateOptions, part: range
) -> list[LatentArrays]:
    """Return the latents of a part of a walk, on the path between two."""
    start, end = latents[0], aligned(latents[1], *match(parents[1], parents[0]))
    return [spherical(start, end, path_fraction(options, place)) for place in part]


def decode_request(
    context: HandlerContext,
    latents: Sequence[LatentArrays],
    tolerance: float,
    first_index: int = 0,
    *,
    progress: bool = False,
) -> EngineDecodeRequest:
    """Return the engine request that decodes latents."""
    return EngineDecodeRequest(
        **context.engine_fields(),
        latents=tuple(latents),
        first_index=first_index,
        rtol=tolerance,
        atol=tolerance,
        progress=progress,
    )


def distances_from(structure: Structure, parents: Sequence[Structure]) -> dict[str, float]:
    """Return the RMSD of a structure from each parent, in angstrom, by the names of the response."""
    names = ("distance", "distance_to_end")
    return {name: rmsd(structure, parent) for name, parent in zip(names, parents, strict=False)}


def _is_near(sampled: Sampled, parent: Structure) -> bool:
    if not np.array_equal(sampled.atomic_numbers, parent.atomic_numbers):
        return False
    found, expected = (x - x.mean(axis=0) for x in (sampled.positions, parent.positions))
    return bool(np.abs(found - expected).max() < MAX_RETURN_ERROR)
