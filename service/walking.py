"""Walks through the latent space: encode, move, decode."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from model.chem.molecule import Molecule
from model.errors import EnflowError, StructureError
from service import work
from service.desk import Answer, Caller, Desk, Emit, Usage, problem_name, refuse_nothing, silent, unwrapped, work_id
from service.generation import Origin, generated
from service.latent import aligned, fresh, match, perturbed, rmsd, spherical
from service.portrait import Portrait
from service.problems import Problem, from_structure
from service.progress import Progress
from service.schemas import InterpolateOptions, VariationsOptions, rtol
from service.work import Latent, Structure

TIGHTER, FINEST = 0.01, 1e-7
"""There and back the flow multiplies the solver's error, so that a walk is solved more tightly than it is asked for.

Measured with weights/qm9 on ethanol, furan and acetamide: off by up to 0.03 angstrom at 1e-5, 0.0008 at 1e-7, for three
times the evaluations; float64 changes nothing.
"""


@dataclass
class Walk:
    """One /interpolate or /variations request under way: its parents are encoded, moved, and decoded."""

    desk: Desk
    options: InterpolateOptions | VariationsOptions
    structures: Sequence[Molecule | EnflowError]
    seed: int
    caller: Caller
    emit: Emit
    usage: Usage = field(default_factory=Usage)
    found: list[Portrait] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    async def run(self) -> Answer:
        """The whole answer, molecules in the order of the walk.

        Raises:
            Problem: the structures do not fit the walk, or the engine gives them up.
        """
        self.parents = self._parents()
        self.desk.check_size([self.parents[0].positions.shape[0]] * self._steps)
        self.progress = Progress(self.desk, self.emit)
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

    @property
    def _tolerance(self) -> float:
        return max(TIGHTER * rtol(self.options.tolerance), FINEST)

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

    async def _encode(self) -> list[Latent]:
        tolerance = self._tolerance
        wanted = work.EncodeWork(
            id=work_id(),
            molecules=tuple(self.parents),
            seed=self.seed,
            rtol=tolerance,
            atol=tolerance,
            client=self.caller.name,
            deadline=self.caller.last_step,
        )
        latents: dict[int, Latent] = {}
        async with self.desk.running(wanted) as events:
            await self.emit("start", {**self.desk.heading(self.seed), "n_molecules": self._steps})
            async for event in events:
                match event:
                    case work.Encoded():
                        latents[event.index] = event.latent
                    case work.Failed():
                        raise Problem(problem_name(event.reason), f"structure {event.index}: {event.reason}")
                    case work.Done():
                        self.desk.account(self.usage, event)
        return [latents[i] for i in range(len(self.parents))]

    def _moved(self, latents: Sequence[Latent]) -> list[Latent]:
        if isinstance(self.options, InterpolateOptions):
            start, end = latents[0], aligned(latents[1], *match(self.parents[1], self.parents[0]))
            return [spherical(start, end, self._fraction(i)) for i in range(self._steps)]
        (n_atoms, n_features), scale = latents[0].h.shape, self.options.scale
        noise = (fresh(n_atoms, n_features, self.seed, i) for i in range(self._steps))
        return [perturbed(latents[0], scale, each) for each in noise]

    def _fraction(self, index: int) -> float:
        return index / (self._steps - 1)

    async def _decode(self, latents: Sequence[Latent]) -> None:
        tolerance = self._tolerance
        wanted = work.DecodeWork(
            id=work_id(),
            latents=tuple(latents),
            rtol=tolerance,
            atol=tolerance,
            progress=self.emit is not silent,
            client=self.caller.name,
            deadline=self.caller.last_step,
        )
        async with self.desk.running(wanted, patient=True) as events:
            async for event in events:
                match event:
                    case work.Progress():
                        await self.progress.under_way(event, done=len(self.found))
                    case work.Sampled():
                        self.progress.finished(event.index)
                        self.tasks.create_task(self._describe(event))
                    case work.Failed():
                        self._fail(event.index, str(event.reason), event.detail)
                    case work.Done():
                        self.desk.account(self.usage, event)

    async def _describe(self, sampled: work.Sampled) -> None:
        try:
            molecule = Molecule(sampled.atomic_numbers, sampled.positions)
        except StructureError as error:
            self._fail(sampled.index, str(work.Reason.STRUCTURE), str(error))
            return
        drawing = await self.desk.draw(molecule, self.usage)
        shown = await generated(self.desk, Origin(self.seed, self._tolerance), sampled, molecule, drawing)
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
