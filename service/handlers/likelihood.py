"""The handler of /likelihood: one entry per structure; an error in one structure leaves the others unchanged."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from enflow.model.chem.molecule import Molecule
from enflow.model.errors import EnflowError
from enflow.service.handlers.context import HandlerContext, failure_problem, first_error
from enflow.service.handlers.served_model import ProgressReporter, ServedModel
from enflow.service.problems import Problem, from_structure
from enflow.service.protocol.events import Done, Event, Failed, Progress, Scored
from enflow.service.protocol.requests import EngineLikelihoodRequest, EstimatorOptions, Structure
from enflow.service.rendering.encoders import Answer
from enflow.service.rendering.molecules import RenderedMolecule, ScoreResult, sorted_by_index
from enflow.service.rendering.score_errors import score_error
from enflow.service.schemas.requests import LikelihoodOptions, rtol
from enflow.service.schemas.responses import LikelihoodResponse, ParticleScoreOut, ScoreErrorOut, ScoreOut
from enflow.service.schemas.stream_events import ScoreEvent, StartEvent

Entry = ScoreOut | ParticleScoreOut | ScoreErrorOut


class LikelihoodHandler:
    """The handler of one /likelihood request: usable structures are scored in one engine request.

    Args:
        served: the model.
        options: the estimator.
        structures: the uploaded structures in order, each a molecule or its error.
        context: the seed, the caller and the stream of events.
        part: the places of the structures to score, counted from 0; None = all.
        files: the names of their files; empty where none are known.
    """

    def __init__(
        self,
        served: ServedModel,
        options: LikelihoodOptions,
        structures: Sequence[Molecule | EnflowError],
        context: HandlerContext,
        part: range | None = None,
        files: Sequence[str | None] = (),
    ) -> None:
        self._part = part or range(len(structures))
        self._served = served
        self._options = options
        self._structures = structures
        self._files = files or [None] * len(structures)
        self._context = context
        self._entries: dict[int, Entry] = {}
        self._scored: list[RenderedMolecule[ScoreOut | ParticleScoreOut]] = []
        self._progress = ProgressReporter(served, context.emit)
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> Answer:
        """Return the whole answer, one entry per structure in their order.

        Raises:
            Problem: the request is refused, or the service stopped.
        """
        molecules = {i: each for i, each in self._of_part() if isinstance(each, Molecule)}
        self._served.check_size([each.n_atoms for each in molecules.values()])
        if molecules:
            with first_error():
                async with self._tasks:
                    self._tasks.create_task(self._score(molecules))
        else:
            await self._start()
        return self._answer()

    def _of_part(self) -> Iterator[tuple[int, Molecule | EnflowError]]:
        return ((i, self._structures[i]) for i in self._part)

    async def _score(self, molecules: Mapping[int, Molecule]) -> None:
        request = EngineLikelihoodRequest(
            **self._context.engine_fields(),
            molecules=tuple(Structure(each.atomic_numbers, each.positions) for each in molecules.values()),
            seed=self._context.seed,
            options=engine_options(self._options),
            progress=self._context.streams,
        )
        indices = list(molecules)
        async with self._served.engine_events(request) as events:
            await self._start()
            async for event in events:
                if isinstance(event, Done):
                    self._served.record(self._context.usage, event)
                else:
                    await self._handle(event, indices[event.index])

    async def _start(self) -> None:
        """Emit the start, and the errors of the structures that cannot be scored."""
        start = StartEvent(
            event="start", seed=self._context.seed, model=self._served.model, n_molecules=len(self._part)
        )
        await self._context.emit(start)
        for index, each in self._of_part():
            if isinstance(each, EnflowError):
                await self._finish_error(index, from_structure(each), "refused")

    async def _handle(self, event: Event, index: int) -> None:
        match event:
            case Progress():
                await self._progress.update(replace(event, index=index), done=len(self._entries))
            case Scored():
                self._progress.finish(index)
                self._tasks.create_task(self._finish(event, index))
            case Failed():
                self._progress.finish(index)
                problem = failure_problem(event.reason, event.message)
                await self._finish_error(index, problem, event.reason)

    async def _finish(self, scored: Scored, index: int) -> None:
        molecule = self._structures[index]
        assert isinstance(molecule, Molecule), "only molecules are scored"
        report = await self._served.infer_bonds(molecule, self._context.usage)
        options, file = engine_options(self._options), self._files[index]
        result = ScoreResult(index, molecule, report, scored, self._context.seed, options, file)
        rendered = self._served.render_score(result)
        self._scored.append(rendered)
        await self._record(index, rendered.document, "ok")

    async def _finish_error(self, index: int, problem: Problem, outcome: str) -> None:
        request_id, file = self._context.caller.request_id, self._files[index]
        await self._record(index, score_error(index, problem, self._structures[index], request_id, file), outcome)

    async def _record(self, index: int, entry: Entry, outcome: str) -> None:
        self._entries[index] = entry
        self._served.telemetry.molecules.labels("scored", outcome).inc()
        await self._context.emit(ScoreEvent(event="score", score=entry))

    def _answer(self) -> Answer:
        document = LikelihoodResponse(
            seed=self._context.seed,
            model=self._served.model,
            tolerance=rtol(self._options.tolerance),
            results=[self._entries[i] for i in self._part],
            usage=self._context.usage.document(),
        )
        return Answer(document, sorted_by_index(self._scored))


def likelihood_seconds(
    served: ServedModel, options: LikelihoodOptions, structures: Sequence[Molecule | EnflowError]
) -> float:
    """Return the estimated time of one structure; 0 where the speed of the engine is not known."""
    molecules = tuple(Structure(m.atomic_numbers, m.positions) for m in structures if isinstance(m, Molecule))
    request = EngineLikelihoodRequest(id="", molecules=molecules, options=engine_options(options))
    return served.seconds_for(request) / max(1, len(structures))


def engine_options(options: LikelihoodOptions) -> EstimatorOptions:
    """Return the options of the engine."""
    tolerance = rtol(options.tolerance)
    return EstimatorOptions(
        options.divergence, options.probes, options.draws, tolerance, tolerance, options.target_error
    )
