"""Walks through the latent space: encode, move, decode."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from enflow.model.chem.molecule import Molecule
from enflow.model.config import TOLERANCES
from enflow.model.errors import EnflowError, StructureError
from enflow.service.handlers.cancellation import unwrapped
from enflow.service.handlers.context import Caller, Emit, Usage, problem_name, refuse_nothing, silent, work_id
from enflow.service.handlers.latent_geometry import aligned, fresh, match, perturbed, rmsd, spherical
from enflow.service.handlers.progress import ProgressReporter
from enflow.service.handlers.sampling import Origin, generated
from enflow.service.handlers.served_model import ServedModel
from enflow.service.problems import Problem, from_structure
from enflow.service.protocol.events import Done, Encoded, Failed, Progress, Reason, Sampled
from enflow.service.protocol.requests import EngineDecodeRequest, EngineEncodeRequest, LatentArrays, Structure
from enflow.service.rendering.answer import Answer
from enflow.service.rendering.molecules import RenderedMolecule
from enflow.service.schemas.requests import InterpolateOptions, VariationsOptions, rtol

TIGHTER, FINEST = 0.01, 1e-10
"""There and back the flow multiplies the solver's error, so that a walk is solved more tightly than it is asked for.

Measured with earlier weights on 24 test molecules (benchmarks/bench_inverse.py): at 1e-7 all but two are within
`NEAR`, at 1e-9 all but one, which is off by 0.0016, for 2.6 times the evaluations; float64 changes nothing. So a
precise walk begins at 1e-7, sees whether its parents come back, and goes on more tightly only where they do not.
"""

NEAR = 1e-3
"""Angstrom of any coordinate."""


@dataclass
class LatentWalkHandler:
    """One /interpolate or /variations request under way: its parents are encoded, moved, and decoded."""

    desk: ServedModel
    options: InterpolateOptions | VariationsOptions
    structures: Sequence[Molecule | EnflowError]
    seed: int
    caller: Caller
    emit: Emit
    usage: Usage = field(default_factory=Usage)
    found: list[RenderedMolecule] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    async def run(self) -> Answer:
        """The whole answer, molecules in the order of the walk.

        Raises:
            Problem: the structures do not fit the walk, or the engine gives them up.
        """
        self.parents, self.tolerance = self._parents(), TIGHTER * rtol(self.options.tolerance)
        self.desk.check_size([self.parents[0].positions.shape[0]] * self._steps)
        self.progress = ProgressReporter(self.desk, self.emit)
        latents = await self._encode()
        with unwrapped():
            async with self.tasks:
                self.tasks.create_task(self._decode(self._moved(latents)))
        refuse_nothing(self.found, self.failed)
        found = sorted(self.found, key=lambda each: int(each.fields["index"]))
        document = {
            **self.desk.heading(self.seed),
            "molecules": [each.fields for each in found],
            "failed": self.failed,
            "usage": self.usage.document(),
        }
        return Answer(document, found)

    @property
    def _steps(self) -> int:
        return self.options.steps if isinstance(self.options, InterpolateOptions) else self.options.n_molecules

    def _parents(self) -> list[Structure]:
        expected = 2 if isinstance(self.options, InterpolateOptions) else 1
        molecules = []
        for each in self.structures:
            if not isinstance(each, Molecule):
                raise from_structure(each)
            molecules.append(each)
        if len(molecules) != expected:
            raise Problem("invalid", f"found {len(molecules)} structures, expected {expected}")
        sizes = {each.n_atoms for each in molecules}
        if len(sizes) > 1:
            first, second = (each.n_atoms for each in molecules)
            raise Problem("invalid", f"found {first} and {second} atoms, expected two structures of equally many atoms")
        return [Structure(each.atomic_numbers, each.positions) for each in molecules]

    async def _encode(self) -> list[LatentArrays]:
        """The parents' latents, from which they come back if precision is asked for and any tolerance gives it."""
        latents = await self._encoded(first=True)
        if rtol(self.options.tolerance) > TOLERANCES["precise"]:
            return latents
        while self.tolerance > 1.5 * FINEST and not await self._return(latents):
            self.tolerance /= 10
            try:
                latents = await self._encoded()
            except Problem as problem:
                if problem.name != "invalid":
                    raise
                self.tolerance *= 10  # finer than the arithmetic can follow: what is there must do
                break
        return latents

    async def _return(self, latents: Sequence[LatentArrays]) -> bool:
        near = 0
        async with self.desk.running(self._decoding(latents), patient=True) as events:
            async for event in events:
                if isinstance(event, Sampled):
                    near += _near(event, self.parents[event.index])
                elif isinstance(event, Done):
                    self.desk.account(self.usage, event)
        return near == len(self.parents)

    def _decoding(self, latents: Sequence[LatentArrays], *, progress: bool = False) -> EngineDecodeRequest:
        return EngineDecodeRequest(
            id=work_id(),
            latents=tuple(latents),
            rtol=self.tolerance,
            atol=self.tolerance,
            progress=progress,
            client=self.caller.name,
            deadline=self.caller.last_step,
        )

    async def _encoded(self, *, first: bool = False) -> list[LatentArrays]:
        wanted = EngineEncodeRequest(
            id=work_id(),
            molecules=tuple(self.parents),
            seed=self.seed,
            rtol=self.tolerance,
            atol=self.tolerance,
            client=self.caller.name,
            deadline=self.caller.last_step,
        )
        latents: dict[int, LatentArrays] = {}
        async with self.desk.running(wanted, patient=not first) as events:
            if first:
                await self.emit("start", {**self.desk.heading(self.seed), "n_molecules": self._steps})
            async for event in events:
                match event:
                    case Encoded():
                        latents[event.index] = event.latent
                    case Failed():
                        raise Problem(problem_name(event.reason), f"structure {event.index}: {event.reason}")
                    case Done():
                        self.desk.account(self.usage, event)
        return [latents[i] for i in range(len(self.parents))]

    def _moved(self, latents: Sequence[LatentArrays]) -> list[LatentArrays]:
        if isinstance(self.options, InterpolateOptions):
            start, end = latents[0], aligned(latents[1], *match(self.parents[1], self.parents[0]))
            return [spherical(start, end, self._fraction(i)) for i in range(self._steps)]
        (n_atoms, n_features), scale = latents[0].h.shape, self.options.scale
        noise = (fresh(n_atoms, n_features, self.seed, i) for i in range(self._steps))
        return [perturbed(latents[0], scale, each) for each in noise]

    def _fraction(self, index: int) -> float:
        return index / (self._steps - 1)

    async def _decode(self, latents: Sequence[LatentArrays]) -> None:
        wanted = self._decoding(latents, progress=self.emit is not silent)
        async with self.desk.running(wanted, patient=True) as events:
            async for event in events:
                match event:
                    case Progress():
                        await self.progress.under_way(event, done=len(self.found))
                    case Sampled():
                        self.progress.finished(event.index)
                        self.tasks.create_task(self._describe(event))
                    case Failed():
                        self._fail(event.index, str(event.reason), event.detail)
                    case Done():
                        self.desk.account(self.usage, event)

    async def _describe(self, sampled: Sampled) -> None:
        try:
            molecule = Molecule(sampled.atomic_numbers, sampled.positions)
        except StructureError as error:
            self._fail(sampled.index, str(Reason.STRUCTURE), str(error))
            return
        drawing = await self.desk.draw(molecule, self.usage)
        shown = await generated(self.desk, Origin(self.seed, self.tolerance), sampled, molecule, drawing)
        # Tens of milliseconds for a large molecule, in which nobody else would be heard.
        distances = await asyncio.to_thread(self._distances, Structure(molecule.atomic_numbers, molecule.positions))
        whither = {"fraction": self._fraction(sampled.index)} if isinstance(self.options, InterpolateOptions) else {}
        shown = replace(shown, fields={**shown.fields, **whither, **distances})
        self.found.append(shown)
        await self.emit("molecule", {"molecule": shown.fields})

    def _distances(self, structure: Structure) -> dict[str, float]:
        names = ("distance", "distance_to_end")
        return {name: rmsd(structure, parent) for name, parent in zip(names, self.parents, strict=False)}

    def _fail(self, index: int, reason: str, detail: str) -> None:
        self.progress.finished(index)
        self.failed.append({"index": index, "reason": reason, "detail": detail})


def _near(sampled: Sampled, parent: Structure) -> bool:
    if not np.array_equal(sampled.atomic_numbers, parent.atomic_numbers):
        return False
    here, there = (x - x.mean(axis=0) for x in (sampled.positions, parent.positions))
    return bool(np.abs(here - there).max() < NEAR)
