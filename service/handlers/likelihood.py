"""Scores of uploaded structures, one entry each; a bad structure never spoils the others."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from enflow.model.chem.molecule import Molecule
from enflow.model.errors import EnflowError
from enflow.service.handlers.cancellation import unwrapped
from enflow.service.handlers.context import Caller, Emit, Usage, problem_name, silent, work_id
from enflow.service.handlers.progress import ProgressReporter
from enflow.service.handlers.served_model import ServedModel
from enflow.service.problems import Problem, from_structure
from enflow.service.protocol.events import Done, Event, Failed, Progress, Scored
from enflow.service.protocol.requests import EngineLikelihoodRequest, EstimatorOptions, Structure
from enflow.service.rendering.answer import Answer
from enflow.service.schemas.requests import LikelihoodOptions, rtol


@dataclass
class LikelihoodHandler:
    """One /likelihood request under way: usable structures are scored together, the others answered at once."""

    desk: ServedModel
    options: LikelihoodOptions
    structures: Sequence[Molecule | EnflowError]
    seed: int
    caller: Caller
    emit: Emit
    usage: Usage = field(default_factory=Usage)
    entries: dict[int, dict[str, Any]] = field(default_factory=dict)
    tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    async def run(self) -> Answer:
        """The whole answer, one entry per structure in their order.

        Raises:
            Problem: the request is refused, or nothing was finished in time.
        """
        molecules = {i: each for i, each in enumerate(self.structures) if isinstance(each, Molecule)}
        self.desk.check_size([each.n_atoms for each in molecules.values()])
        self.progress = ProgressReporter(self.desk, self.emit)
        if molecules:
            with unwrapped():
                async with self.tasks:
                    self.tasks.create_task(self._score(molecules))
        else:
            await self._start()
            await self._refuse()
        results = [self.entries[i] for i in range(len(self.structures))]
        return Answer({**self.desk.heading(self.seed), "results": results, "usage": self.usage.document()}, ())

    async def _score(self, molecules: Mapping[int, Molecule]) -> None:
        wanted = EngineLikelihoodRequest(
            id=work_id(),
            molecules=tuple(Structure(each.atomic_numbers, each.positions) for each in molecules.values()),
            seed=self.seed,
            options=engine_options(self.options),
            progress=self.emit is not silent,
            client=self.caller.name,
            deadline=self.caller.last_step,
        )
        places = list(molecules)
        async with self.desk.running(wanted) as events:
            await self._start()
            await self._refuse()
            async for event in events:
                if isinstance(event, Done):
                    self.desk.account(self.usage, event)
                else:
                    await self._hear(event, places[event.index])

    async def _start(self) -> None:
        await self.emit("start", {**self.desk.heading(self.seed), "n_molecules": len(self.structures)})

    async def _refuse(self) -> None:
        for index, each in enumerate(self.structures):
            if isinstance(each, EnflowError):
                await self._enter(index, {"index": index, "error": self._problem(from_structure(each))}, "refused")

    async def _hear(self, event: Event, index: int) -> None:
        match event:
            case Progress():
                await self.progress.under_way(replace(event, index=index), done=len(self.entries))
            case Scored():
                self.progress.finished(index)
                self.tasks.create_task(self._describe(event, index))
            case Failed():
                self.progress.finished(index)
                problem = Problem(problem_name(event.reason), failure(event))
                await self._enter(index, {"index": index, "error": self._problem(problem)}, event.reason)

    async def _describe(self, scored: Scored, index: int) -> None:
        molecule = self.structures[index]
        assert isinstance(molecule, Molecule)
        drawing = await self.desk.draw(molecule, self.usage)
        numbers = {"nll": scored.nll, "nll_std_error": scored.std_error, "index": index, "seed": self.seed}
        shown = await self.desk.portray(molecule, drawing, numbers)
        entry = {
            "index": index,
            **shown.fields,
            **self.desk.numbers(scored, molecule),
            "divergence": self.options.divergence,
            "probes": engine_options(self.options).probes_per_node,
            "draws": scored.draws,
            "nfe": scored.nfe,
            "solver_status": scored.status,
            "quadrature_error": scored.quadrature_error,
        }
        await self._enter(index, entry, "ok")

    async def _enter(self, index: int, entry: dict[str, Any], outcome: str) -> None:
        self.entries[index] = entry
        self.desk.telemetry.molecules.labels("scored", outcome).inc()
        await self.emit("score", {"score": entry})

    def _problem(self, problem: Problem) -> dict[str, Any]:
        return problem.document(self.caller.request_id)


def failure(failed: Failed) -> str:
    """What a caller is told about a molecule that the engine gave up."""
    return f"{failed.reason}: {failed.detail}" if failed.detail else str(failed.reason)


def engine_options(options: LikelihoodOptions) -> EstimatorOptions:
    """The options in the engine's words."""
    tolerance = rtol(options.tolerance)
    return EstimatorOptions(
        options.divergence, options.probes, options.draws, tolerance, tolerance, options.target_error
    )
